"""Output sizes of operators outside of the standard (com.microsoft), which standard shape inference does not know."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ...graph import Shape

MICROSOFT = "com.microsoft"
Sizes = Callable[[ir.Node, Sequence[Shape | None]], list[Shape]]


def _same(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    assert given[0] is not None
    return [given[0]] * len(node.outputs)


def _skip(node: ir.Node, given: Sequence[Shape | None]) -> list[Shape]:
    """Normalised, mean, inverse deviation, sum before normalisation."""
    assert given[0] is not None
    few = (*given[0][:-1], 1)
    return [given[0], few, few, given[0]]


FUSED_SHAPES: dict[tuple[str, str], Sizes] = {
    **dict.fromkeys([(MICROSOFT, name) for name in "Gelu BiasGelu FastGelu QuickGelu BiasAdd".split()], _same),
    **dict.fromkeys([(MICROSOFT, f"Skip{name}LayerNormalization") for name in ("", "Simplified")], _skip),
}
