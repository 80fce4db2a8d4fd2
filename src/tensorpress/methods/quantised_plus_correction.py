"""``quantised_plus_correction``: rounded weights, and factors that make up for the rounding.

``W ~ Q + L``: LQER and QERA (``L`` of low rank, fitted to the error ``W - Q`` as the inputs weigh
it), SRR (a part of ``L`` set aside before rounding), LoftQ and CALDERA (both parts in turn). Tensor
trains and Tucker as ``L`` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods import gptq
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import WhitenedSpec, Whitening
from tensorpress.methods.budget import Budget
from tensorpress.methods.correction import VALUE_BITS, Correction, Fit
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, dense_store, with_layouts
from tensorpress.methods.layout import Layout, sizes_of
from tensorpress.methods.rounding import Rounding
from tensorpress.methods.tt import Metric, metric_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format


class Base(Section):
    """How the weights are rounded."""

    quantiser: Literal["rtn", "gptq"] = "rtn"
    bits: int = Field(4, ge=2, le=8)
    group_size: int | None = Field(64, ge=2, description="weights that share a scale")

    def values(self, numel: int) -> int:
        """Values of 16 bits that the codes and scales of so many weights take."""
        scales = -(-numel // self.group_size) if self.group_size else 1
        return -(-numel * self.bits // VALUE_BITS) + scales


Share = Annotated[float, Field(ge=0, le=1)]


class Spec(WhitenedSpec):
    """Base, correction, and how they are brought together; ``budget`` is of both."""

    approach: ClassVar[Approach] = "hybrid"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")

    method: Literal["quantised_plus_correction"]
    base: Base = Base()
    correction: Correction = Correction()
    budget: Budget | None = None
    whiten: Whitening = Field("input", description="what the correction and the choice minimise")
    preserve: tuple[Share, ...] = Field(
        (0.0,),
        min_length=1,
        description="shares of the ranks fitted to the weights before these are rounded; "
        "of several the one of least error",
    )
    sweeps: int = Field(1, ge=1, description="how often base and correction are fitted in turn")
    damping: float = Field(0.01, ge=1e-6, description="of GPTQ's moments")

    @model_validator(mode="after")
    def _sized(self) -> Self:
        given = [self.budget, self.correction.rank, self.correction.budget]
        if sum(each is not None for each in given) != 1:
            raise ValueError("give exactly one of budget, correction.rank and correction.budget")
        if "damping" in self.model_fields_set and self.base.quantiser != "gptq":
            raise ValueError(
                f"damping belongs to base.quantiser: gptq, not to {self.base.quantiser!r}; "
                "allowed: leave it out"
            )
        return self

    @property
    def label(self) -> str:
        return f"{self.base.quantiser}-{self.correction.format}"

    @property
    def needs_moments(self) -> bool:
        return self.whiten != "none" or self.base.quantiser == "gptq"

    @property
    def holds_tensor_format(self) -> bool:
        return self.correction.format != "svd"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            fit = self.fit(shape, module)
            correction = fit.layout.description
            if self.correction.rounding:
                how = self.correction.rounding.model_dump()
                correction = {"format": "rounded", "settings": {"inner": correction, **how}}
            parts = {"base": self._base(shape), "correction": correction}
            found.append(Layout((module,), "sum", parts))
        return found

    def _base(self, shape: ModuleShape) -> dict[str, Any]:
        inner = {"format": "dense", "settings": sizes_of(shape)}
        how = self.base.model_dump(exclude={"quantiser"})
        return {"format": "rounded", "settings": {"inner": inner, **how}}

    def fit(self, shape: ModuleShape, module: str) -> Fit:
        """How corrections of a module's matrices are made."""
        if self.budget is None:
            return Fit.of(self.correction, self.correction.budget, self.whiten, module, shape)
        left = self.budget.allowed(shape.numel) - self.base.values(shape.numel)
        saved = 1 - left / self.correction.value_share / shape.numel
        if saved >= 1:
            least = 1 - self.base.values(shape.numel) / shape.numel
            raise TensorpressError(
                f"budget.saved: {self.budget.saved} leaves no room beside {self.base.bits} bits at "
                f"{module}; allowed: less than {least:.4f}"
            )
        if saved <= 0:
            raise TensorpressError(
                f"budget.saved: {self.budget.saved} leaves the correction of {module} as large as "
                "the weights; allowed: more, or base.bits that take more"
            )
        return Fit.of(self.correction, Budget(saved=saved), self.whiten, module, shape)

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        module = layout.modules[0]
        shape = layer.modules[module]
        fit = self.fit(shape, module)
        fitted = fit.spec.cost(fit.layout, fit.layer)
        stored = self.base.values(shape.numel) // 2 + fitted.stored
        held, macs = max(fitted.held, 3 * shape.numel), fitted.macs
        if self.base.quantiser == "gptq":
            rounded = gptq.Spec(method="gptq", bits=self.base.bits, group_size=self.base.group_size)
            within = Layout(layout.modules, **layout.settings["base"])
            cost = rounded.cost(within, layer)
            held, macs = max(held, cost.held, cost.before or 0), macs + cost.macs
        rounds = len(self.preserve) * (self.sweeps + 1)
        return Cost(stored, held + 3 * shape.numel + 2 * stored, rounds * macs)


EXAMPLE = Spec(
    method="quantised_plus_correction", base=Base(group_size=16), correction=Correction(rank=3)
)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Codes of the weights, and factors of what rounding them loses."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        known = metric_of(moments, layout.modules[0], spec)
        factors.append(Factors(layout.modules, _fitted(layout, layer, spec, stack, known)))
    return factors


def _fitted(
    layout: Layout, layer: LayerShape, spec: Spec, stack: Tensor, known: Metric | None
) -> Format:
    import torch

    from tensorpress.methods.two_parts import best_sum

    (module,) = layout.modules
    fit, codes = (
        spec.fit(layer.modules[module], module),
        Layout(layout.modules, **layout.settings["base"]),
    )
    rounding = spec.correction.rounding
    metric = None if spec.whiten == "none" else known

    def base(rest: Tensor) -> Format:
        if spec.base.quantiser == "gptq":
            moment = None if known is None else known.moments
            return gptq.rounded_stack(codes, rest, moment, spec.damping)
        nearest = Rounding(bits=spec.base.bits, group_size=spec.base.group_size)
        return nearest.applied(dense_store(rest), torch.bfloat16)

    def correction(rest: Tensor) -> Format:
        made = fit(rest, metric)
        return rounding.applied(made, torch.bfloat16) if rounding else made

    scaled = map(fit.scaled, spec.preserve)
    starts = [None if each is None else partial(each, metric=metric) for each in scaled]
    return best_sum(stack, metric, base, correction, starts, spec.sweeps)
