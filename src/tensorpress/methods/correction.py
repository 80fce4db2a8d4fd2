"""Factors that are added to another part of a matrix: settings, layout, and the fit itself.

They are made by the methods that make such factors of whole weights.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape, group_of
from tensorpress.architectures.sites import gradient_of
from tensorpress.keying.section import Section
from tensorpress.methods import svd, td_moe, tt, tucker_ffn
from tensorpress.methods.base import MethodSpec, Whitening
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.rounding import Rounding

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format
    from tensorpress.methods.tt import Metric

VALUE_BITS = 16
"""Of a scale and of a factor that is not rounded, where a budget is counted."""
MADE_BY = {"svd": (svd, svd), "tt": (tt, tt), "tucker": (tucker_ffn, td_moe)}
"""Format -> the methods that make its factors of one matrix, and of a stack of experts."""


class Correction(Section):
    """What is added to the rounded weights."""

    format: Literal["svd", "tt", "tucker"] = "svd"
    rank: int | None = Field(None, ge=1, description="largest rank; of Tucker, of both modes")
    budget: Budget | None = None
    order: int = Field(3, ge=2, le=16, description="cores of a tensor train")
    bits: int | None = Field(
        None, ge=2, le=8, description="of the factors; null: as they are stored"
    )
    group_size: int | None = Field(64, ge=2, description="values of factors that share a scale")

    @model_validator(mode="after")
    def _sized_once(self) -> Self:
        if self.rank is not None and self.budget is not None:
            raise ValueError("give rank or budget, not both")
        if self.budget is not None and self.budget.allocate != "uniform":
            raise ValueError(
                f"budget.allocate: {self.budget.allocate!r} is not allowed for a part of a matrix; "
                "allowed: uniform"
            )
        return self

    @property
    def rounding(self) -> Rounding | None:
        """How the factors are rounded."""
        return Rounding(bits=self.bits, group_size=self.group_size) if self.bits else None

    @property
    def value_share(self) -> float:
        """Bits of a value of the factors, over those of one that is not rounded."""
        if self.bits is None:
            return 1.0
        return (self.bits + (VALUE_BITS / self.group_size if self.group_size else 0)) / VALUE_BITS


class Fit:
    """One method's factors of one matrix, or of one stack of experts."""

    def __init__(self, made_by: ModuleType, module: str, shape: ModuleShape, **how: Any) -> None:
        name = made_by.__name__.rpartition(".")[2]
        spec: MethodSpec = made_by.Spec(method=name, **how)
        self.made_by, self.spec, self.module, self.shape = made_by, spec, module, shape
        self.layer = LayerShape(shape.in_features, 1, 1, 1, {module: shape})
        (self.layout,) = spec.layouts(self.layer, group_of(module))

    @staticmethod
    def of(
        how: Correction, budget: Budget | None, whiten: Whitening, module: str, shape: ModuleShape
    ) -> Fit:
        """The fit of a correction of its rank, or of what a budget allows.

        ``TensorpressError`` where that does not fit the shapes.
        """
        made_by = MADE_BY[how.format][shape.slices > 1]
        fields, groups = made_by.Spec.model_fields, made_by.Spec.groups
        settings: dict[str, Any] = {"whiten": whiten, "budget": budget}
        if budget is None:
            assert how.rank is not None, "settings have one or the other"
            if how.format != "tt":
                limit = min(shape.out_features, shape.in_features)
                require_rank("correction.rank", how.rank, limit, module)
            both = {"ranks": {"out": how.rank, "in": how.rank}}
            settings |= both if "ranks" in fields else {"rank": how.rank}
        if "order" in fields:
            settings["order"] = how.order
        # any matrix under the name of one that stands alone there
        name = module if group_of(module) in groups else "ffn.down"
        return Fit(made_by, name, shape, **settings)

    def scaled(self, share: float) -> Fit | None:
        """The same of a share of the ranks; ``None`` where nothing is left of one."""
        settings = self.layout.settings
        if "out_rank" in settings:
            ranks = {side: int(share * settings[f"{side}_rank"]) for side in ("out", "in")}
            size: dict[str, Any] = {"ranks": ranks}
            least = min(ranks.values())
        else:
            least = int(share * (settings.get("rank") or max(settings["ranks"])))
            size = {"rank": least}
        if not least:
            return None
        given = self.spec.model_dump(exclude={"method", *self.spec.sized_by})
        return Fit(self.made_by, self.module, self.shape, **given, **size)

    def __call__(self, stack: Tensor, metric: Metric | None) -> Format:
        """The factors of ``stack (S, out, in)``, whose errors the metric weighs."""
        weights, moments = {self.module: self._own(stack)}, None
        if metric is not None:
            moments = {self.module: self._own(metric.moments)}
            if metric.gradients is not None:
                moments[gradient_of(self.module)] = self._own(metric.gradients)
        (made,) = self.made_by.decompose(weights, self.layer, self.spec, moments)
        store: Format = made.store
        return store

    def _own(self, stack: Tensor) -> Tensor:
        """As the modules of one matrix have it: without slices."""
        return stack if self.shape.slices > 1 else stack[0]
