"""``td_moe``: all experts of one projection as one Tucker decomposition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tensorpress.errors import TensorpressError
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.methods.base import Factors, MethodSpec, require_rank

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(BaseModel):
    """Explicit ranks; ``expert`` only where the expert mode is compressed."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    out: int = Field(ge=1)
    in_: int = Field(ge=1, alias="in")
    expert: int | None = Field(None, ge=1)


class Spec(MethodSpec):
    """Either ``ratio`` (share of values saved; ranks are searched) or explicit ``ranks``."""

    groups: ClassVar[tuple[str, ...]] = ("experts",)

    method: Literal["td_moe"]
    ratio: float | None = Field(None, gt=0, lt=1, description="share of values to save")
    ranks: Ranks | None = None
    experts: Literal["preserve", "compress"] = Field(
        "preserve", description="preserve: every expert has a core of its own"
    )
    alignment: int = Field(8, ge=1, description="ranks are multiples of it")
    rank_choice: Literal["predicted_error", "nearest_budget"] = Field(
        "predicted_error", description="nearest_budget: as the published code chooses"
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.ratio is None) == (self.ranks is None):
            raise ValueError("give exactly one of ratio and ranks")
        if self.ranks is not None and (self.ranks.expert is None) != (self.experts == "preserve"):
            raise ValueError("ranks.expert belongs to experts: compress, and only there")
        return self

    def check(self, layer: LayerShape, group: str) -> None:
        self.check_group(group)
        for module, shape in layer.group(group).items():
            if self.ranks is not None:
                require_rank("ranks.out", self.ranks.out, shape.out_features, module)
                require_rank("ranks.in", self.ranks.in_, shape.in_features, module)
                require_rank("ranks.expert", self.ranks.expert or 1, shape.slices, module)
            elif not candidates(shape, self):
                raise TensorpressError(
                    f"ratio: {self.ratio} leaves no room at {module} for ranks that are "
                    f"multiples of {self.alignment}; allowed: a smaller ratio or alignment"
                )


@dataclass(frozen=True)
class TuckerRanks:
    """Ranks of the expert, output and input modes; ``expert == E`` means no expert factor."""

    expert: int
    out: int
    inner: int

    def values(self, shape: ModuleShape, compressed: bool) -> int:
        """Stored values: core, output and input bases, and the expert factor if there is one."""
        core = self.expert * self.out * self.inner
        bases = shape.out_features * self.out + shape.in_features * self.inner
        return core + bases + (shape.slices * self.expert if compressed else 0)


def budget_of(shape: ModuleShape, spec: Spec) -> int:
    """Values that the ratio allows: ``(1 - ratio) E out in``."""
    assert spec.ratio is not None
    return round((1.0 - spec.ratio) * shape.numel)


def candidates(shape: ModuleShape, spec: Spec) -> list[TuckerRanks]:
    """For each pair of expert and output ranks, the input rank that uses the budget P.

    TD-MoE (Xu et al., ICLR 2026): ``in = (P - E e - d_out o) / (e o + d_in)`` in multiples of
    the alignment: rounded down, so that the budget holds, or to the nearest as published.
    """
    compressed, align = spec.experts == "compress", spec.alignment
    budget = budget_of(shape, spec)
    found = []
    for expert in range(1, shape.slices + 1) if compressed else (shape.slices,):
        for out in range(min(align, shape.out_features), shape.out_features + 1, align):
            left = budget - shape.out_features * out - (shape.slices * expert if compressed else 0)
            steps = left / (expert * out + shape.in_features) / align
            nearest = spec.rank_choice == "nearest_budget"
            inner = align * (round(steps) if nearest else math.floor(steps))
            if inner >= align:
                found.append(TuckerRanks(expert, out, min(inner, shape.in_features)))
    return found


def choose_ranks(stack: Tensor, shape: ModuleShape, spec: Spec) -> TuckerRanks:
    """Explicit ranks, or the candidate of least predicted error (or nearest to the budget).

    The prediction is the HOSVD bound: the sum over modes of the discarded squared spectrum.
    """
    from tensorpress.linalg.tucker import mode_spectrum

    if spec.ranks is not None:
        return TuckerRanks(spec.ranks.expert or shape.slices, spec.ranks.out, spec.ranks.in_)
    found, compressed = candidates(shape, spec), spec.experts == "compress"
    if spec.rank_choice == "nearest_budget":
        budget = budget_of(shape, spec)
        return min(found, key=lambda r: abs(r.values(shape, compressed) - budget))
    spectra = [mode_spectrum(stack, mode)[1] for mode in range(3)]
    tails = [[*s.flip(0).cumsum(0).flip(0).tolist(), 0.0] for s in spectra]
    return min(found, key=lambda r: tails[0][r.expert] + tails[1][r.out] + tails[2][r.inner])


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """HOSVD of each projection's ``(E, out, in)`` stack by its Gram matrices."""
    from tensorpress.formats.tucker_slices import TuckerSlices
    from tensorpress.linalg.tucker import hosvd, tucker_bounds

    factors = []
    for module, stack in weights.items():
        shape = layer.modules[module]
        ranks = choose_ranks(stack, shape, spec)
        modes = {1: ranks.out, 2: ranks.inner}
        if spec.experts == "compress":
            modes[0] = ranks.expert
        core, bases = hosvd(stack, modes)
        store = TuckerSlices(
            slices=shape.slices,
            out_features=shape.out_features,
            in_features=shape.in_features,
            out_rank=ranks.out,
            in_rank=ranks.inner,
            slice_rank=ranks.expert if spec.experts == "compress" else None,
        )
        values = {"left": bases[1], "right": bases[2], "core": core}
        if spec.experts == "compress":
            values["mix"] = bases[0]
        store.fill(**{name: value.float() for name, value in values.items()})
        factors.append(Factors((module,), store, *tucker_bounds(stack, modes)))
    return factors
