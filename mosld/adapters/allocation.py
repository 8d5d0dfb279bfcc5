"""How many experts each layer has (MoLA, Gao et al. 2024; MoSLD section 4.3): a shape stretched over any depth."""

from collections.abc import Sequence


def experts_per_layer(shape: int | Sequence[int], depth: int) -> list[int]:
    """Experts of each layer from the first to the last.

    Args:
        shape: one number for all layers, or numbers for equal parts of the depth: [8, 6, 4, 2] gives the first
            quarter of the layers 8 experts each.
        depth: number of layers.

    Raises:
        ValueError: the shape has more parts than the model has layers.
    """
    if isinstance(shape, int):
        return [shape] * depth
    if len(shape) > depth:
        raise ValueError(f"allocation.experts={list(shape)} has {len(shape)} parts, the model only {depth} layers")
    return [shape[layer * len(shape) // depth] for layer in range(depth)]
