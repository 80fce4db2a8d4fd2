"""``heads``: narrower values of attention, v and o turned so that what is cut matters least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import (
    head_count,
    head_moments,
    head_shape,
    head_slices,
    per_head,
)
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs
from tensorpress.methods.factors import Factors, dense_store, output_gradients
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

VALUES = ("attention.v", "attention.o")
KEYS = ("attention.q", "attention.k")


class Spec(MethodSpec):
    """How wide values stay, and in which basis they are cut.

    The budget is of the matrices that are cut: v and o, and with ``qk: published`` q and k.
    """

    approach: ClassVar[Approach] = "low rank"
    groups: ClassVar[tuple[str, ...]] = ("attention",)
    whole_groups: ClassVar[bool] = True
    by_heads: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    method: Literal["heads"]
    rank: int | None = Field(None, ge=1, description="width of each head's values")
    budget: Budget | None = None
    basis: Literal["output", "pca"] = Field(
        "output",
        description="output: of the predicted loss; pca: of the values alone, as FLAT-LLM",
    )
    qk: Literal["keep", "published"] = Field(
        "keep", description="published: heads of q and k are cut by PCA too, which costs more"
    )

    @property
    def needs_moments(self) -> bool:
        return True

    @property
    def needs_gradients(self) -> bool:
        return self.basis == "output"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        rank, shapes = self.rank_of(layer), layer.group(group)
        if rank == layer.head_dim:  # nothing to cut
            return [Layout((m,), "dense", sizes_of(shape)) for m, shape in shapes.items()]
        found = []
        for module in KEYS:
            whole = Layout((module,), "dense", sizes_of(shapes[module]))
            inner = {**sizes_of(head_shape(layer, module)), "rank": rank}
            cut = per_head(module, "low_rank", inner)
            found.append(cut if self.qk == "published" else whole)
        heads = [head_count(layer, module) for module in VALUES]
        v, o = (sizes_of(shapes[module]) for module in VALUES)
        sizes = {**v, "out_features": heads[0] * rank}, {**o, "in_features": heads[1] * rank}
        settings = {
            "parts": [{"format": "dense", "settings": each} for each in sizes],
            "sides": ["out", "in"],
            "width": layer.head_dim,
            "heads": heads,
        }
        return [*found, Layout(VALUES, "subset", settings)]

    def rank_of(self, layer: LayerShape) -> int:
        """The width that each head's values keep."""
        width, shapes = layer.head_dim, layer.group("attention")
        if self.rank is not None:
            require_rank("rank", self.rank, width, "attention")
            return self.rank
        assert self.budget is not None
        each = sum(shapes[module].numel for module in VALUES) // width
        dense = each * width
        if self.qk == "published":
            heads = sum(head_count(layer, module) for module in KEYS)
            each += heads * (layer.hidden_size + width)
            dense += sum(shapes[module].numel for module in KEYS)
        return self.budget.largest(width, lambda rank: rank * each, dense, "attention")

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        if layout.modules != VALUES and layout.format == "dense":
            return Cost(layer.modules[layout.modules[0]].numel)
        width, modules = layer.head_dim, [layer.modules[m] for m in layout.modules]
        values, heads = sum(m.numel for m in modules), layer.heads + layer.kv_heads
        # copies of the weights in float64, moments of all heads, and of o's inputs twice
        side = max(modules[-1].in_features, modules[0].in_features)
        held = 3 * values + int((heads + VECTORS) * width**2) + 2 * side**2
        macs = values * width + modules[-1].numel * side + heads * eigen_macs(width)
        return Cost(values, held, macs)


EXAMPLE = Spec(method="heads", rank=3)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Values ``R V`` of each kv head and ``O L`` of its query heads, with ``R L`` the identity.

    Attention mixes tokens, not coordinates, so that ``O V`` changes by the projection ``L R`` alone
    (FLAT-LLM, Tian et al. 2025). No factor is left over: the rows of v and columns of o beyond the
    rank are zero.
    """
    factors = []
    for layout in spec.layouts(layer, "attention"):
        if layout.modules == VALUES:
            factors.append(_values(layout, weights, layer, spec, moments))
        elif layout.format == "dense":
            (module,) = layout.modules
            factors.append(Factors((module,), dense_store(weights[module]), 0.0, 0.0))
        else:
            factors.append(_keys(layout, weights, layer, moments))
    return factors


def _values(
    layout: Layout,
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> Factors:
    import torch

    from tensorpress.formats.subset import Subset
    from tensorpress.linalg.columns import output_error
    from tensorpress.linalg.head_bases import output_basis, principal_basis

    v, o = (head_slices(weights[m].double(), layer, m) for m in VALUES)
    shared = o.unflatten(0, (len(v), -1))  # query heads by the kv head that they read
    rank = layout.settings["parts"][0]["settings"]["out_features"] // len(v)
    reads = None if moments is None else moments["attention.o"]
    turns = []
    for head, matrix in enumerate(v):
        if spec.basis == "pca":
            inputs = None if moments is None else moments["attention.v"]
            turns.append(principal_basis(matrix, inputs, rank))
            continue
        context = None
        if reads is not None:
            blocks = head_moments(reads, layer, "attention.o").unflatten(0, (len(v), -1))
            context = blocks[head].double().mean(0)
        outputs = output_gradients(moments, "attention.o", spec)
        turns.append(output_basis(shared[head], context, outputs, rank))
    right = torch.stack([turn.right for turn in turns])
    left = torch.stack([turn.left for turn in turns])
    store = layout.build()
    assert isinstance(store, Subset)
    narrow = shared @ left[:, None]
    store.fill(
        **{
            "part_0.weight": (right @ v).flatten(0, 1)[None].float(),
            "part_1.weight": narrow.flatten(0, 1).permute(1, 0, 2).flatten(1)[None].float(),
        }
    )
    change = (narrow @ right[:, None] - shared).flatten(0, 1).permute(1, 0, 2).flatten(1)
    known = torch.eye(change.shape[1]).to(change) if reads is None else reads
    total = output_error(weights["attention.o"], known)
    error = (output_error(change, known) / total) ** 0.5 if total else 0.0
    return Factors(VALUES, store, product_error=error, turns={"attention.v": right.float()})


def _keys(
    layout: Layout,
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    moments: Mapping[str, Tensor] | None,
) -> Factors:
    """Each head of q or k in the basis of its outputs' moment, before the rotary embedding."""
    import torch

    from tensorpress.linalg.head_bases import principal_basis

    (module,) = layout.modules
    rank = layout.settings["inner"]["settings"]["rank"]
    heads = head_slices(weights[module].double(), layer, module)
    inputs = None if moments is None else moments[module]
    turns = [principal_basis(matrix, inputs, rank) for matrix in heads]
    left = torch.stack([turn.left for turn in turns]).float()
    right = torch.stack([t.right @ m for t, m in zip(turns, heads, strict=True)]).float()
    store = layout.build().fill(**{"inner.left": left, "inner.right": right})
    return Factors(layout.modules, store)
