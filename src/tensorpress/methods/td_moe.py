"""``td_moe``: all experts of one projection as one Tucker decomposition (Xu et al., ICLR 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs
from tensorpress.methods.factors import Factors, bounded, output_gradients, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tensorpress.linalg.whitening import Diagonal, Root


class Ranks(Section):
    """Explicit ranks; ``expert`` only where the expert mode is compressed."""

    model_config = ConfigDict(serialize_by_alias=True)

    out: int = Field(ge=1)
    in_: int = Field(ge=1, alias="in")
    expert: int | None = Field(None, ge=1)


class Spec(MethodSpec):
    """How small (``ratio`` or the same as ``budget``; ranks are searched) or explicit ``ranks``."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("experts",)
    sized_by: ClassVar[tuple[str, ...]] = ("ratio", "budget", "ranks")
    finds_size: ClassVar[tuple[str, ...]] = ("alignment", "rank_choice")

    method: Literal["td_moe"]
    ratio: float | None = Field(None, gt=0, lt=1, description="share of values to save")
    budget: Budget | None = Field(None, description="the ratio, written as in other methods")
    ranks: Ranks | None = None
    experts: Literal["preserve", "compress"] = Field(
        "preserve", description="preserve: every expert has a core of its own"
    )
    alignment: int = Field(8, ge=1, description="ranks are multiples of it")
    rank_choice: Literal["predicted_error", "nearest_budget"] = Field(
        "predicted_error", description="nearest_budget: as the published code chooses"
    )
    whiten: Literal["none", "input", "output", "both"] = Field(
        "none", description="weigh inputs, outputs or both by the root of their second moment"
    )
    whiten_output: Literal["moment", "gradient"] = Field(
        "moment",
        description="what outputs are weighed by: the second moment of what their weights make, "
        "as published, or the gradients of the loss",
    )
    whiten_root: Literal["square_root", "published"] = Field(
        "square_root", description="published: the inverse root, as the study's code does"
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if self.ranks is not None and (self.ranks.expert is None) != (self.experts == "preserve"):
            raise ValueError("ranks.expert belongs to experts: compress, and only there")
        return self

    @property
    def saved(self) -> float:
        """Share of values to save, where ranks are to be searched."""
        assert self.ratio is not None or self.budget is not None
        return self.budget.to_save if self.ratio is None else self.ratio  # type: ignore[union-attr]

    @property
    def needs_moments(self) -> bool:
        return self.whiten != "none"

    @property
    def needs_gradients(self) -> bool:
        return self.whiten in ("output", "both") and self.whiten_output == "gradient"

    @property
    def nested(self) -> bool:
        sized = self.ranks is not None or self.rank_choice == "nearest_budget"
        return sized and not self.needs_advice

    @property
    def sized_by_weights(self) -> bool:
        return self.ranks is None and self.rank_choice != "nearest_budget"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [self._layout(m, shape) for m, shape in layer.group(group).items()]

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape, sizes = layer.modules[layout.modules[0]], layout.settings
        expert = sizes["slice_rank"] or shape.slices
        ranks = TuckerRanks(expert, sizes["out_rank"], sizes["in_rank"])
        largest = max(shape.slices, shape.out_features, shape.in_features)
        held = VECTORS * largest**2 + shape.numel
        macs = 3 * shape.numel * largest + 3 * eigen_macs(largest)
        stored = ranks.values(shape, self.experts == "compress")
        if not self.needs_moments:
            return Cost(stored, int(held), macs)
        # the whitened stack in float32, beside the plain one while it is made, and both roots
        sides = shape.out_features**2 + shape.in_features**2
        held, before = held + shape.numel // 2 + 2 * sides, int((VECTORS + 1) * sides)
        return Cost(stored, int(held), 2 * macs, before)

    def _layout(self, module: str, shape: ModuleShape) -> Layout:
        if self.ranks is not None:
            require_rank("ranks.out", self.ranks.out, shape.out_features, module)
            require_rank("ranks.in", self.ranks.in_, shape.in_features, module)
            require_rank("ranks.expert", self.ranks.expert or 1, shape.slices, module)
            ranks = TuckerRanks(self.ranks.expert or shape.slices, self.ranks.out, self.ranks.in_)
            return layout_of(module, shape, self, ranks)
        planned = planned_ranks(shape, self)
        if planned is None:
            raise TensorpressError(
                f"ratio: {self.saved} leaves no room at {module} for ranks that are "
                f"multiples of {self.alignment}; allowed: a smaller ratio or alignment"
            )
        return layout_of(module, shape, self, planned)


EXAMPLE = Spec(method="td_moe", ratio=0.3)


@dataclass(frozen=True)
class TuckerRanks:
    """Ranks of the expert, output and input modes; ``expert == E`` means no expert factor."""

    expert: int
    out: int
    inner: int

    def values(self, shape: ModuleShape, compressed: bool) -> int:
        """Stored values of the factors."""
        return _values(self.expert, self.out, self.inner, shape, compressed)


@dataclass(frozen=True)
class Candidates:
    """Ranks to choose from, ``(n,)`` of each mode: hundreds of thousands of large mixtures."""

    expert: NDArray
    out: NDArray
    inner: NDArray

    def values(self, shape: ModuleShape, compressed: bool) -> NDArray:
        """Stored values of each, ``(n,)``."""
        return _values(self.expert, self.out, self.inner, shape, compressed)

    def take(self, index: int) -> TuckerRanks:
        """One of them."""
        return TuckerRanks(int(self.expert[index]), int(self.out[index]), int(self.inner[index]))


def _values(expert: Any, out: Any, inner: Any, shape: ModuleShape, compressed: bool) -> Any:
    """Core, output and input bases, and the expert factor if there is one; numbers or arrays."""
    bases = shape.out_features * out + shape.in_features * inner
    return expert * out * inner + bases + shape.slices * expert * compressed


def budget_of(shape: ModuleShape, spec: Spec) -> int:
    """Values that the ratio allows: ``(1 - ratio) E out in``."""
    return round((1.0 - spec.saved) * shape.numel)


def candidates(shape: ModuleShape, spec: Spec) -> Candidates:
    """For each pair of expert and output ranks, the input rank that uses the budget P.

    TD-MoE (Xu et al., ICLR 2026): ``in = (P - E e - d_out o) / (e o + d_in)`` in multiples of
    the alignment: rounded down, so that the budget holds, or to the nearest as published.
    """
    import numpy as np

    compressed, align = spec.experts == "compress", spec.alignment
    experts = np.arange(1 if compressed else shape.slices, shape.slices + 1)
    outs = np.arange(min(align, shape.out_features), shape.out_features + 1, align)
    expert, out = (grid.ravel() for grid in np.meshgrid(experts, outs, indexing="ij"))
    left = budget_of(shape, spec) - shape.out_features * out - shape.slices * expert * compressed
    steps = left / (expert * out + shape.in_features) / align
    nearest = spec.rank_choice == "nearest_budget"
    inner = align * (np.rint if nearest else np.floor)(steps).astype(np.int64)
    room = inner >= align
    return Candidates(expert[room], out[room], np.minimum(inner, shape.in_features)[room])


@cache
def planned_ranks(shape: ModuleShape, spec: Spec) -> TuckerRanks | None:
    """The candidate that follows from shapes, the first of equal ones; ``None`` without any.

    The one whose size is nearest to the budget, as the published code chooses, or the largest that
    ``choose_ranks`` may take. Planning asks again and again for few shapes.
    """
    found = candidates(shape, spec)
    if not found.expert.size:
        return None
    values = found.values(shape, spec.experts == "compress")
    if spec.rank_choice == "nearest_budget":
        return found.take(int(abs(values - budget_of(shape, spec)).argmin()))
    return found.take(int(values.argmax()))


def layout_of(module: str, shape: ModuleShape, spec: Spec, ranks: TuckerRanks) -> Layout:
    """The factors of one projection for chosen ranks."""
    settings = {
        **sizes_of(shape),
        "out_rank": ranks.out,
        "in_rank": ranks.inner,
        "slice_rank": ranks.expert if spec.experts == "compress" else None,
    }
    return Layout((module,), "tucker_slices", settings)


def choose_ranks(stack: Tensor, shape: ModuleShape, spec: Spec) -> TuckerRanks:
    """The candidate of least predicted error.

    The prediction is the HOSVD bound: the sum over modes of the discarded squared spectrum.
    """
    import numpy as np

    from tensorpress.linalg.tucker import mode_spectrum

    tails = []
    for squares in (mode_spectrum(stack, mode) for mode in range(3)):
        tail = squares.flip(0).cumsum(0).flip(0).cpu().numpy()
        tails.append(np.append(tail, 0.0))
    found = candidates(shape, spec)
    discarded = tails[0][found.expert] + tails[1][found.out] + tails[2][found.inner]
    return found.take(int(discarded.argmin()))


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """HOSVD of each projection's ``(E, out, in)`` stack by its Gram matrices.

    Whitened, modes ``in`` and ``out`` are multiplied by roots of the second moments before and
    by their inverses after: of the inputs that the experts receive, and of the outputs that
    their weights make of these, or of the loss's gradients by the outputs.
    """
    return [
        _joint(layout, stacks.pop(), layer.modules[layout.modules[0]], spec, moments)
        for layout, stacks in with_layouts(weights, layer, spec)
    ]


def _joint(
    layout: Layout,
    stack: Tensor,
    shape: ModuleShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> Factors:
    from tensorpress.linalg.bounds import certain
    from tensorpress.linalg.tucker import hosvd, mode_spectrum

    names = {1: "out_rank", 2: "in_rank"}
    if spec.experts == "compress":
        names[0] = "slice_rank"
    roots, plain = {}, {}
    if moments is not None:
        # the moments, as many values as the weights or more, are gone when this returns
        outputs = output_gradients(moments, layout.modules[0], spec)
        roots = expert_roots(stack, stacked(moments[layout.modules[0]]), spec, outputs)
        # the ranks are not chosen yet
        plain = {mode: certain(mode_spectrum(stack, mode)) for mode in names}
        stack = whitened(stack, roots)
    if spec.ranks is None and spec.rank_choice == "predicted_error":
        layout = layout_of(layout.modules[0], shape, spec, choose_ranks(stack, shape, spec))
    ranks = {mode: layout.settings[name] for mode, name in names.items()}
    core, bases, spectra = hosvd(stack, ranks, ordered=spec.nested)
    del stack  # the factors may be as large
    bases |= {mode: root.unwhiten(bases[mode], 0) for mode, root in roots.items()}
    values = {"left": bases[1], "right": bases[2], "core": core}
    if spec.experts == "compress":
        values["mix"] = bases[0]
    store = layout.build().fill(**{name: value.float() for name, value in values.items()})
    named = {names[mode]: plain.get(mode, squares) for mode, squares in spectra.items()}
    return bounded(layout.modules, store, named, spec)


def expert_roots(
    stack: Tensor, moment: Tensor, spec: Spec, outputs: Tensor | None = None
) -> dict[int, Root | Diagonal]:
    """Roots of the modes to be whitened: of the mean moment of all experts' inputs, or outputs.

    ``outputs``: squared gradients ``(S, out)`` of the outputs where these stand for the moment.
    """
    from tensorpress.linalg.whitening import Diagonal, congruence, output_roots, root_of

    sums = {}
    if spec.whiten in ("input", "both"):
        sums[2] = sum(inputs.double() for inputs in moment)
    if spec.whiten in ("output", "both") and outputs is None:
        sums[1] = sum(congruence(each, inputs) for each, inputs in zip(stack, moment, strict=True))
    roots: dict[int, Root | Diagonal] = {
        mode: root_of(total / len(stack)) for mode, total in sums.items()
    }
    if outputs is not None:
        roots[1] = Diagonal(output_roots(outputs.mean(0)))
    published = spec.whiten_root == "published"
    return {mode: root.inverse if published else root for mode, root in roots.items()}


def whitened(stack: Tensor, roots: Mapping[int, Root | Diagonal]) -> Tensor:
    """The stack in its own dtype, modes multiplied by their roots, one expert at a time."""
    import torch

    white = torch.empty_like(stack)
    for target, matrix in zip(white, stack, strict=True):
        for mode, root in roots.items():
            matrix = root.whiten(matrix, mode - 1)
        target.copy_(matrix)
    return white
