"""The experts that a prompt decided (router "domain"), kept with the key-value cache of that prompt.

Shapes: B batch, E experts.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from mosld.adapters.forward_context import AdapterLayer
from mosld.adapters.routing import Routing


class CachedExperts:
    """What the class of a cache gets in front, so that whatever moves the rows of the cache moves their experts.

    Attributes:
        mosld_experts: by adapter and layer, the routing of each row [B, 1, E].
    """

    mosld_experts: dict[AdapterLayer, Routing]

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        # The class is made at run time: copies and files name the class of the library.
        return _restore, (type(self).__mro__[2], self.__dict__)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._change(lambda part: part.repeat_interleave(repeats, dim=0))

    def _select(self, rows_B: Tensor) -> None:
        self._change(lambda part: part[rows_B.to(part.device)])

    def _change(self, rows: Callable[[Tensor], Tensor]) -> None:
        self.mosld_experts = _each_part(self.mosld_experts, rows)


@cache
def _with_experts(kind: type) -> type:
    return type(kind.__name__, (CachedExperts, kind), {"__module__": kind.__module__})


def _restore(kind: type, state: dict[str, Any]) -> object:
    restored: object = object.__new__(_with_experts(kind))
    restored.__dict__.update(state)
    return restored


def keep_with_cache(kv_cache: object, experts: dict[AdapterLayer, Routing]) -> None:
    """Keep the experts with the cache that this pass filled; does nothing without a cache."""
    if kv_cache is None:
        return
    if not isinstance(kv_cache, CachedExperts):
        kv_cache.__class__ = _with_experts(type(kv_cache))  # type: ignore[arg-type]
    kv_cache.mosld_experts = _each_part(experts, Tensor.detach)  # type: ignore[attr-defined]


def _each_part(experts: dict[AdapterLayer, Routing], change: Callable[[Tensor], Tensor]) -> dict[AdapterLayer, Routing]:
    """The probabilities and the gates of each routing, changed."""
    return {key: Routing(*map(change, routing[:2])) for key, routing in experts.items()}


def experts_of_cache(kv_cache: object) -> dict[AdapterLayer, Routing]:
    """The experts of the rows of a cache; none where another model filled it."""
    return getattr(kv_cache, "mosld_experts", {})
