"""From how many experts on the grouped product is faster than the dense one (mosld/adapters/kernels/grouped.py).

    python benchmarks/crossover.py [--widths 576,4096] [--tokens 512] [--choices 1,2,4] [--json FILE]

The sum over experts with shared A, forward and backward, both ways in turn on the same tokens.
"""

from collections.abc import Callable

import torch
from growth import numbers
from side_by_side import DEVICE, arguments, in_turn, ratio, report
from torch import Tensor
from torch.nn.functional import linear

from mosld.adapters.kernels.grouped import up_by_expert
from mosld.adapters.routing import top_k_routing

SHAPES = ((5, 8), (8, 8), (16, 8), (32, 8), (64, 8), (64, 64))  # experts, rank


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--widths", type=numbers, default=[576, 4096])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--choices", type=numbers, default=[1, 2, 4])
    options = parser.parse_args()
    lines = []
    for width in options.widths:
        for experts, rank in SHAPES:
            z = torch.randn(options.tokens, 1, rank, device=DEVICE, requires_grad=True)
            B = torch.randn(width, experts * rank, device=DEVICE, requires_grad=True)
            for k in options.choices:
                gates = top_k_routing(torch.randn(options.tokens, experts, device=DEVICE), k).gates_BSE

                def both_ways(up: Callable[[], Tensor]) -> Callable[[int], None]:
                    return lambda _: up().sum().backward()

                def dense(z: Tensor = z, gates: Tensor = gates, B: Tensor = B) -> Tensor:
                    return linear((gates.unsqueeze(-1) * z).flatten(-2), B)

                def sparse(z: Tensor = z, gates: Tensor = gates, B: Tensor = B, k: int = k) -> Tensor:
                    return up_by_expert(z, gates, B, k)

                seconds = in_turn({"dense": both_ways(dense), "sparse": both_ways(sparse)}, options.rounds)
                line = {"width": width, "experts": experts, "rank": rank, "k": k, "columns": experts * rank}
                line["dense, ms"] = 1000 * sorted(seconds["dense"])[options.rounds // 2]
                lines.append(line | {"sparse to dense": ratio(seconds["sparse"], seconds["dense"])["ratio"]})
    report(f"The sum over experts on {options.tokens} tokens, forward and backward", lines, options.json)


if __name__ == "__main__":
    main()
