"""The load of the experts over a whole optimiser step, whatever its micro-batches and processes are.

Two things need it: the biases of routers with balance "bias", and balance losses with balance_over "step".
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mosld.adapters.router import Router

AllReduce = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""
Key = tuple[str, str]
"""Names of an adapter and of a module."""


class StepLoad:
    """Counts assignments in training forwards: by adapter and module those of each expert and, last, tokens [E + 1]."""

    def __init__(self) -> None:
        self._counts: dict[Key, Tensor] = {}
        self._known: Mapping[Key, Tensor] = {}
        self._counts_passes = False

    def add(self, adapter: str, counts: Mapping[str, Tensor], tokens: Tensor) -> None:
        """Count a forward pass: by module the assignments of each expert [E], and the tokens []."""
        for module, count in counts.items() if self._counts_passes else ():
            key = adapter, module
            self._counts[key] = self._counts.get(key, 0) + torch.cat([count, tokens.to(count).unsqueeze(0)])

    @contextmanager
    def counting(self, on: bool = True) -> Iterator[None]:
        """Count the passes of a step, but none that only serves other processes."""
        before, self._counts_passes = self._counts_passes, on
        try:
            yield
        finally:
            self._counts_passes = before

    def take(self, routers: Mapping[Key, Router], all_reduce: AllReduce) -> dict[Key, Tensor]:
        """What was counted since the last call, over all processes, for each of these routers."""
        counts = [self._counts.get(key, _nothing(router)) for key, router in routers.items()]
        self._counts = {}
        if not counts:
            return {}
        parts = all_reduce(torch.cat(counts)).split([len(count) for count in counts])
        return dict(zip(routers, parts, strict=True))

    @contextmanager
    def knowing(self, load: Mapping[Key, Tensor]) -> Iterator[None]:
        """Let balance losses use the load of the whole step."""
        self._known = load
        try:
            yield
        finally:
            self._known = {}

    def known_of(self, adapter: str) -> dict[str, Tensor] | None:
        """By module, the load of the whole step; None where it is not known."""
        return {module: load for (name, module), load in self._known.items() if name == adapter} or None


@torch.no_grad()
def move_biases(routers: Mapping[Key, Router], load: Mapping[Key, Tensor]) -> None:
    """``b += rate * sign(mean load - load)`` for each expert (loss-free balancing, arXiv 2408.15664)."""
    for key, router in routers.items():
        if router.bias is not None:
            counts_E = load[key][:-1]
            router.bias += router.config.balance_rate * (counts_E.mean() - counts_E).sign()


def _nothing(router: Router) -> Tensor:
    experts = router.bias if router.weight is None else router.weight
    assert experts is not None
    return torch.zeros(len(experts) + 1, device=experts.device)
