"""The heads of attention projections: their slices of weights and of input moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.methods.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["in", "out"]

MODULES = ("attention.q", "attention.k", "attention.v", "attention.o")


def side_of(module: str) -> Side:
    """Where the heads are: blocks of rows (``out``: q, k, v) or of columns (``in``: o)."""
    return "in" if module == "attention.o" else "out"


def head_count(layer: LayerShape, module: str) -> int:
    """Heads of a projection."""
    return layer.heads if module in ("attention.q", "attention.o") else layer.kv_heads


def head_shape(layer: LayerShape, module: str) -> ModuleShape:
    """Shape of the stack of a projection's heads."""
    heads = head_count(layer, module)
    if side_of(module) == "out":
        return ModuleShape(layer.head_dim, layer.modules[module].in_features, heads)
    return ModuleShape(layer.modules[module].out_features, layer.head_dim, heads)


def per_head(module: str, inner: str, settings: dict[str, Any]) -> Layout:
    """A projection whose heads are the slices of an ``inner`` format of these settings."""
    description = {"format": inner, "settings": settings}
    return Layout((module,), "per_head", {"side": side_of(module), "inner": description})


def inner_settings(layout: Layout) -> dict[str, Any]:
    """Settings of the format that ``per_head`` was given."""
    settings: dict[str, Any] = layout.settings["inner"]["settings"]
    return settings


def head_slices(weight: Tensor, layer: LayerShape, module: str) -> Tensor:
    """Each head's matrix: ``(heads, head_dim, hidden)``, for o ``(heads, hidden, head_dim)``."""
    heads = head_count(layer, module)
    if side_of(module) == "out":
        return weight.unflatten(0, (heads, -1))
    return weight.unflatten(1, (heads, -1)).transpose(0, 1)


def head_outputs(values: Tensor, layer: LayerShape, module: str) -> Tensor:
    """Values ``(out,)`` of a projection's outputs as each head's: its block, for o all of them."""
    heads = head_count(layer, module)
    if side_of(module) == "out":
        return values.unflatten(0, (heads, -1))
    return values.expand(heads, -1)


def head_moments(moment: Tensor, layer: LayerShape, module: str) -> Tensor:
    """Second moment of each head's inputs: the whole one, for o the head's diagonal block."""
    heads = head_count(layer, module)
    if side_of(module) == "out":
        return moment.expand(heads, -1, -1)
    blocks = moment.unflatten(0, (heads, -1)).unflatten(2, (heads, -1))
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
