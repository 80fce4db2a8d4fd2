"""``svd``: best rank-k approximation of each matrix, plain, of its outputs, or of the loss.

The ridge between the first two is that of COALA (Parkina and Rakhuba 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import WhitenedSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs
from tensorpress.methods.factors import (
    Factors,
    bounded,
    dense_store,
    output_gradients,
    stacked,
    with_layouts,
)
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

BATCH_VALUES = 2**24
"""Values of a batch of matrices or of their moments: 128 MiB in float64."""


class Adaptive(Section):
    """A ridge that follows from what the factors without one change (COALA)."""

    adaptive: float = Field(gt=0, description="weight of the error of weights beside outputs'")


def _ridge_form(value: Any) -> str:
    return "<rule>" if isinstance(value, dict | Adaptive) else "<number>"


Ridge = Annotated[
    Annotated[float, Field(ge=0), Tag("<number>")] | Annotated[Adaptive, Tag("<rule>")],
    Discriminator(_ridge_form),
]


class Spec(WhitenedSpec):
    """One rank for every matrix of the group, or a budget that gives each its own."""

    approach: ClassVar[Approach] = "low rank"
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")
    has_curves: ClassVar[bool] = True

    method: Literal["svd"]
    rank: int | None = Field(None, ge=1, description="columns of the left factor")
    budget: Budget | None = None
    ridge: Ridge | None = Field(
        None,
        description="of the moments that weigh inputs, as a share of their mean eigenvalue: "
        "the larger, the nearer to the plain SVD; or {adaptive: weight}",
    )
    minimal_norm: bool = Field(
        False, description="the right factor holds nothing that no input of calibration meets"
    )

    @model_validator(mode="after")
    def _of_moments(self) -> Self:
        asked = {"ridge": self.ridge is not None, "minimal_norm": self.minimal_norm}
        given = [name for name, is_given in asked.items() if is_given]
        if given and not self.needs_moments:
            raise ValueError(
                f"{given[0]} belongs to whiten: input and both, not to {self.whiten!r}; "
                "allowed: leave it out"
            )
        shared = self.shared_budget
        if self.is_adaptive and shared is not None and shared.allocate == "loss":
            raise ValueError(
                "ridge: adaptive is not allowed with budget.allocate 'loss', for each rank has a "
                "ridge of its own; allowed: a number"
            )
        return self

    @property
    def is_adaptive(self) -> bool:
        """Whether the ridge follows from the rank, so that smaller factors are others."""
        return isinstance(self.ridge, Adaptive)

    @property
    def nested(self) -> bool:
        return not self.needs_advice and not self.is_adaptive

    def control(self, rounding_bits: int | None) -> str | None:
        if rounding_bits:
            return None
        return "whitened SVD" if self.needs_moments else "SVD"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        given = {each.module: each.ranks for each in self.budget.ranks} if self.budget else {}
        return [
            _of_ranks(m, shape, given[m] if m in given else (self.rank_of(m, shape),))
            for m, shape in layer.group(group).items()
        ]

    def rank_of(self, module: str, shape: ModuleShape) -> int:
        """The rank of one module's matrices."""
        limit = min(shape.out_features, shape.in_features)
        if self.rank is not None:
            require_rank("rank", self.rank, limit, module)
            return self.rank
        assert self.budget is not None
        smaller = shape.out_features * shape.in_features // (shape.out_features + shape.in_features)
        if self.budget.allocate == "loss" and self.budget.floor > smaller:
            raise TensorpressError(
                f"budget.floor: {self.budget.floor} is above the limit at {module}; "
                f"allowed: 0 to {smaller}"
            )
        each = shape.slices * (shape.out_features + shape.in_features)
        if self.budget.allocate == "loss" and each > self.budget.allowed(shape.numel):
            return 1  # others of the step may have less: checks.check_floor knows them all
        return self.budget.largest(limit, lambda rank: rank * each, shape.numel, module)

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape = layer.modules[layout.modules[0]]
        out, inner = shape.out_features, shape.in_features
        # which matrices get more than their share is not known yet
        rank = min(out, inner) if self.needs_advice else layout.settings["rank"]
        both, side = out + inner, min(out, inner)
        if self.needs_moments and out > inner:
            side = inner
        held = VECTORS * side**2 + out * inner + 2 * rank * both
        if self.needs_moments:
            held += rank * both
            if out > inner:
                held += 2 * inner**2 + 2 * out * inner
        if self.is_adaptive:
            held += 2 * out * inner
        if self.minimal_norm:
            held, side = max(held, int(VECTORS * inner**2) + 3 * rank * both), inner
        batch = min(shape.slices, _step(out, inner))
        macs = shape.slices * (2 * out * inner * side + eigen_macs(side)) * (1 + self.is_adaptive)
        return Cost(shape.slices * rank * both, int(batch * held), macs)


EXAMPLE = Spec(method="svd", rank=5)


def _of_ranks(module: str, shape: ModuleShape, ranks: tuple[int | None, ...]) -> Layout:
    """The simplest format of the slices' ranks, or of the one that all have."""
    sizes = sizes_of(shape)
    if len(set(ranks)) > 1:
        return Layout((module,), "ragged", {**sizes, "ranks": list(ranks)})
    if ranks[0] is None:
        return Layout((module,), "dense", sizes)
    if ranks[0] == 0:
        return Layout((module,), "zero", sizes)
    return Layout((module,), "low_rank", {**sizes, "rank": ranks[0]})


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Factors ``left (S, out, k)``, ``right (S, k, in)`` (Eckart & Young; SVD-LLM if whitened).

    For the plain SVD both bounds are the error itself; for the weighted one the plain SVD's
    error bounds from below. Slices of several ranks are ``formats.ragged``.
    """
    from tensorpress.linalg.bounds import of_tails
    from tensorpress.running.oom import values_at_once, with_smaller_batches

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        if layout.format in ("dense", "zero"):
            store = dense_store(stack) if layout.format == "dense" else layout.build()
            factors.append(Factors(layout.modules, store))
            continue
        moment = None if moments is None else stacked(moments[layout.modules[0]])
        gradient = output_gradients(moments, layout.modules[0], spec)
        with stack.device:
            store = layout.build()
        values = values_at_once(stack.device, BATCH_VALUES)
        step = min(len(stack), _step(stack.shape[1], stack.shape[2], values))
        squares = with_smaller_batches(
            "svd", partial(_fill, store, stack, moment, gradient, spec), step, stack.device
        )
        if layout.format == "low_rank":
            factors.append(bounded(layout.modules, store, {"rank": squares.sum(0)}, spec))
            continue
        pairs = zip(layout.settings["ranks"], squares, strict=True)
        left_out = sum(float(each[k:].sum()) for k, each in pairs if k is not None)
        lower, upper = of_tails([left_out], float(squares.sum()))
        upper_bound = None if spec.needs_moments else upper
        factors.append(Factors(layout.modules, store, lower, upper_bound))
    return factors


def _fill(
    store: Any,
    stack: Tensor,
    moment: Tensor | None,
    gradient: Tensor | None,
    spec: Spec,
    step: int,
) -> Tensor:
    """Give the store its factors; the squared plain spectra ``(S, side)``.

    ``step`` slices of ``stack (S, out, in)`` go through float64 together.
    """
    import torch

    from tensorpress.linalg.truncated_svd import truncated_svd
    from tensorpress.linalg.tucker import mode_spectrum

    ranks: list[int | None] = store.settings.get("ranks") or [store.settings["rank"]] * len(stack)
    spectra: list[Tensor] = []
    for first in range(0, len(stack), step):
        some = slice(first, first + step)
        most = max(rank or 1 for rank in ranks[some])
        if moment is None:
            left, right, squares = truncated_svd(stack[some], most)
            spectra.extend(squares)
        else:
            outputs = None if gradient is None else gradient[some]
            left, right = _weighted(stack[some], moment[some], most, outputs, spec)
            spectra.extend(mode_spectrum(matrix, 0, most) for matrix in stack[some])
        for index, rank in enumerate(ranks[some], start=first):
            if rank is None:
                store.matrix(index).copy_(stack[index])
            elif rank:
                columns, rows = store.factors(index)
                columns.copy_(left[index - first, :, :rank])
                rows.copy_(right[index - first, :rank])
    return torch.stack(spectra)


def _weighted(
    stack: Tensor, moment: Tensor, rank: int, gradient: Tensor | None, spec: Spec
) -> tuple[Tensor, Tensor]:
    """Factors in the metric of the moments, with the ridge of the settings."""
    from tensorpress.linalg.truncated_svd import RIDGE, adaptive_ridge, used_by, weighted_svd

    ridge: float | Tensor
    if isinstance(spec.ridge, Adaptive):
        ridge = adaptive_ridge(stack, moment, rank, gradient, spec.ridge.adaptive)
    else:
        ridge = RIDGE if spec.ridge is None else spec.ridge
    left, right = weighted_svd(stack, moment, rank, gradient, ridge)
    return left, used_by(right, moment) if spec.minimal_norm else right


def _step(out: int, inner: int, values: int = BATCH_VALUES) -> int:
    return max(1, values // (inner * max(out, inner)))
