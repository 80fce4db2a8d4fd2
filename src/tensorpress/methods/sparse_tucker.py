"""``sparse_tucker``: bases that a stack of matrices shares, and few entries of their cores.

After LeSTD (Li, Guo, Yin and Li, ICLR 2026), whose code is not public: reconstructed. Its published
form is attention's q, k, v and o by heads, without calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.errors import TensorpressError
from tensorpress.formats.coordinates import coordinate_bits
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import MODULES
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs, tucker_held
from tensorpress.methods.cp import TRANSPOSED
from tensorpress.methods.factors import Factors, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of
from tensorpress.methods.sparse import VALUE_BITS

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format


class Ranks(Section):
    """Ranks of the residual stream and of the matrices' own side, of heads that of their width."""

    stream: int = Field(ge=1)
    own: int = Field(ge=1)


class Stack(NamedTuple):
    """What matrices of one tensor have in common, as seen from the residual stream."""

    hidden: int
    width: int  # of a head where they are in heads, else their whole other side
    heads: int
    apart: str  # what is never in one tensor with others


class Spec(MethodSpec):
    """Ranks or a budget, and the share of the cores' entries that go.

    Matrices of a group that have equal sides from the stream are one tensor, as in ``cp``; where
    errors are weighed by inputs only those that read the same.
    """

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("ranks", "budget")

    method: Literal["sparse_tucker"]
    ranks: Ranks | None = None
    budget: Budget | None = Field(None, description="of bases, kept entries and their places")
    share: float = Field(0.5, ge=0, lt=1, description="of the cores' entries that go")
    whiten: Literal["none", "input"] = Field(
        "none", description="input: minimise the error of the outputs"
    )

    @property
    def needs_moments(self) -> bool:
        return self.whiten != "none"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        alike: dict[Stack, list[str]] = {}
        for module in layer.group(group):
            alike.setdefault(self._stack(layer, module), []).append(module)
        return [self._layout(layer, stack, tuple(each)) for stack, each in alike.items()]

    def _stack(self, layer: LayerShape, module: str) -> Stack:
        shape, writes = layer.modules[module], module in TRANSPOSED
        hidden, flat = shape.in_features, shape.out_features
        if writes:
            hidden, flat = flat, hidden
        # inputs of a matrix that writes are its own side, whose weights differ from head to head
        by_heads = module in MODULES and layer.in_heads and not (writes and self.needs_moments)
        heads = flat // layer.head_dim if by_heads else 1
        apart = module if shape.slices > 1 else "writes" * (writes and self.needs_moments)
        return Stack(hidden, flat // heads, heads, apart)

    def _layout(self, layer: LayerShape, stack: Stack, modules: tuple[str, ...]) -> Layout:
        where, first = "+".join(modules), layer.modules[modules[0]]
        slices = first.slices * len(modules)
        rows = stack.heads * slices
        limits = {
            "stream": min(stack.hidden, rows * stack.width),
            "own": min(stack.width, rows * stack.hidden),
        }
        mixed = len(modules) > 1

        def values(ranks: Mapping[str, int]) -> int:
            bases = stack.hidden * ranks["stream"] + stack.width * ranks["own"]
            bases += slices**2 * mixed
            return bases + self._core_values(rows * ranks["own"], ranks["stream"], slices)

        if self.ranks is not None:
            ranks = self.ranks.model_dump()
            for name, limit in limits.items():
                require_rank(f"ranks.{name}", ranks[name], limit, where)
        else:
            assert self.budget is not None
            dense = slices * first.out_features * first.in_features
            ranks = self.budget.proportional(limits, values, dense, where, whole=rows)
        core = {"out_features": stack.heads * ranks["own"], "in_features": ranks["stream"]}
        kept = self.kept(slices * math.prod(core.values()))
        if not kept:
            raise TensorpressError(
                f"share: {self.share} leaves nothing of the core of {where}; allowed: less"
            )
        evenly = [kept * (s + 1) // slices - kept * s // slices for s in range(slices)]
        settings = {
            **sizes_of(first),
            "slices": slices,
            "heads": stack.heads,
            "sides": [
                "out" if m in TRANSPOSED else "in" for m in modules for _ in range(first.slices)
            ],
            "mixed": mixed,
            "core": {"format": "sparse", "settings": {"slices": slices, **core, "kept": evenly}},
        }
        return Layout(modules, "sparse_tucker", settings)

    def kept(self, entries: int) -> int:
        """Entries of the cores that stay."""
        return entries - round(self.share * entries)

    def _core_values(self, rows: int, columns: int, slices: int) -> int:
        """What cores of ``rows (of all slices) x columns`` take, in values of 16 bits."""
        entries = rows * columns
        kept = self.kept(entries)
        places = min(entries, kept * sum(coordinate_bits(rows // slices, columns)))
        return kept + -(-places // VALUE_BITS)

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        sizes = layout.settings
        core = sizes["core"]["settings"]
        hidden, flat = sizes["in_features"], sizes["out_features"]
        if sizes["sides"][0] == "out":
            hidden, flat = flat, hidden
        width, numel = flat // sizes["heads"], sizes["slices"] * hidden * flat
        ranks = (core["in_features"], core["out_features"] // sizes["heads"])
        entries = sizes["slices"] * core["in_features"] * core["out_features"]
        stored = hidden * ranks[0] + width * ranks[1] + sum(core["kept"]) + sizes["slices"] ** 2
        # the tensor and what one basis leaves of it; the order of the core's entries
        held = tucker_held(max(hidden, width), min(hidden, width), numel) + 2 * numel + 3 * entries
        if self.needs_moments:
            inputs = hidden if sizes["sides"][0] == "in" else width
            held += 2 * numel + (VECTORS + 1) * inputs**2
        sweep = 2 * numel * sum(ranks) + eigen_macs(hidden) + eigen_macs(width)
        return Cost(stored, int(held), numel * (hidden + width) + SWEEPS * sweep)


SWEEPS = 3
"""Passes over the modes as far as time goes."""

EXAMPLE = Spec(method="sparse_tucker", ranks=Ranks(stream=12, own=4))


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Partial Tucker (HOOI) of every stack, then the largest entries of its cores.

    The bases are orthonormal, in the metric of the errors, so that an entry that goes costs its
    square whatever else goes, and those that stay need no refitting.
    """
    from tensorpress.linalg.tucker import tucker_bounds

    factors = []
    for layout, stacks in with_layouts(weights, layer, spec):
        tensor = _tensor(layout, stacks)
        core = layout.settings["core"]["settings"]
        ranks = {1: core["in_features"], 3: core["out_features"] // layout.settings["heads"]}
        if layout.settings["mixed"]:
            ranks[0] = layout.settings["slices"]
        lower, _ = tucker_bounds(tensor, ranks)
        moment = None if moments is None else stacked(moments[layout.modules[0]])
        factors.append(Factors(layout.modules, _fitted(layout, tensor, ranks, moment), lower))
    return factors


def _tensor(layout: Layout, stacks: list[Tensor]) -> Tensor:
    """``(slices, hidden, heads, width)``."""
    import torch

    matrices = [matrix for stack in stacks for matrix in stack]
    views = [
        matrix.mT if side == "in" else matrix
        for matrix, side in zip(matrices, layout.settings["sides"], strict=True)
    ]
    return torch.stack(views).unflatten(2, (layout.settings["heads"], -1))


def _fitted(
    layout: Layout, tensor: Tensor, ranks: Mapping[int, int], moment: Tensor | None
) -> Format:
    import torch

    from tensorpress.formats.sparse import Sparse
    from tensorpress.formats.sparse_tucker import SparseTucker
    from tensorpress.linalg.tucker import weighted_tucker
    from tensorpress.linalg.whitening import Diagonal, Root, root_of

    sizes = layout.settings
    roots: dict[int, Root | Diagonal] = {}
    if moment is not None:
        # those that share a basis share the mean of what they read
        roots[1 if sizes["sides"][0] == "in" else 3] = root_of(
            sum(each.double() for each in moment) / len(moment)
        )
    core, bases = weighted_tucker(tensor, ranks, roots)
    matrices = core.permute(0, 2, 3, 1).flatten(1, 2).float()
    kept = sum(sizes["core"]["settings"]["kept"])
    order = matrices.abs().flatten().argsort(descending=True, stable=True)
    masks = torch.zeros(matrices.numel(), dtype=torch.bool, device=matrices.device)
    masks[order[:kept]] = True
    sparse = Sparse.of(matrices, masks.view(matrices.shape))
    settings = {name: value for name, value in sizes.items() if name != "core"}
    with matrices.device:
        store = SparseTucker(**settings, core=sparse)
    values = {"stream": bases[1], "own": bases[3]}
    if sizes["mixed"]:
        values["mix"] = bases[0]
    own = {name: value.float() for name, value in values.items()}
    return store.fill(**own, **{f"core.{n}": v for n, v in sparse.state_dict().items()})
