"""Small layers in float64 for the tests of adapters, and the comparison of two results with their gradients."""

import torch
from torch.autograd import grad

from mosld.adapters.adapt import peft_config
from mosld.adapters.bank import Mixture
from mosld.adapters.config import MosldConfig
from mosld.adapters.forward_context import ForwardContext
from mosld.config.groups import method_config

IN, OUT, EXPERTS, RANK, ALPHA = 12, 10, 5, 3, 6.0
SCALE = ALPHA / RANK
ROUTER_RTOL, ROUTER_ATOL = 1e-4, 1e-6  # the router runs in fp32 by design, the references in float64


def config_of(method: str, **options) -> MosldConfig:
    """The PEFT config of a method at a small rank, with EXPERTS experts in every layer."""
    allocation = EXPERTS
    if method in ("smora", "flylora"):
        return peft_config(*method_config(method, None, {"experts": EXPERTS, "top_k": 2, **options}))
    if method in ("moa", "mixlora"):
        allocation = None
        options |= {"domains": ["a", "b", "c"]} if method == "moa" else {"experts": EXPERTS}
    return peft_config(*method_config(method, allocation, {"rank": RANK, "alpha": ALPHA, **options}))


def mixture(config: MosldConfig | None = None, dtype=torch.float64, **options) -> Mixture:
    """A layer whose B is not zero; without a config, a plain top-2 mixture with these options."""
    config = config or MosldConfig(**{"r": RANK, "alpha": ALPHA, "experts": EXPERTS, "dropout": 0.0, **options})
    torch.manual_seed(0)
    layer = Mixture(IN, OUT, config.experts, config)
    torch.nn.init.normal_(layer.B)
    if layer.router.weight is not None:
        torch.nn.init.normal_(layer.router.weight)
    return layer.to(dtype)


def tokens(rows=2, width=4, features=IN, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(rows, width, features, dtype=dtype, requires_grad=True)


def context(**attributes) -> ForwardContext:
    """A forward context with these attributes: mask_BS, domain_B, prompt_mask_BS."""
    state = ForwardContext()
    for name, value in attributes.items():
        assert hasattr(state, name)
        setattr(state, name, value)
    return state


def assert_same(ours, theirs, leaves: dict[str, torch.Tensor], rtol=ROUTER_RTOL, atol=ROUTER_ATOL) -> None:
    """Two tensors are close, and so are the gradients of a random sum of each to every leaf."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    torch.manual_seed(2)
    weights = torch.randn_like(theirs)
    sums = [(result * weights).sum() for result in (ours, theirs)]
    actual, expected = (grad(total, list(leaves.values()), materialize_grads=True, retain_graph=True) for total in sums)
    for name, mine, other in zip(leaves, actual, expected, strict=True):
        assert other.any(), f"the reference gives {name} no gradient"
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
