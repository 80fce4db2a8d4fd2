"""``advised``: for every module what pre-flight advice found best for the whole model's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from tensorpress.architectures.layers import LayerShape
from tensorpress.methods.allocation import Curve
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import left_out
from tensorpress.methods.factors import Factors, dense_store
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = "rounding"
"""What a choice is called in place of a method where the weight itself is rounded."""
TRIED_METHODS = ("svd", "tt", "tucker_ffn", "tucker_qkvo", "td_moe")


class Choice(BaseModel):
    """One option for some modules of a layer: its settings, bits, damage (nats per token) and MACs.

    ``ranks`` has one entry a factor set; ``macs`` are multiply-accumulates of one token, over all
    modules. ``method`` is a method's name, or ``rounding`` with ``bits`` and ``group_size`` for the
    weight itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int
    modules: tuple[str, ...]
    method: str
    settings: dict[str, Any]
    bits: int
    dense_bits: int
    damage: float
    ranks: tuple[dict[str, Any], ...]
    macs: int
    dense_macs: int


class Options(BaseModel):
    """What may be chosen for the modules of one layer: choices, or curves of their matrices.

    ``importance``: how far the layer turns what it gets, as a share of half a turn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[Choice, ...] = ()
    curves: tuple[Curve, ...] = ()
    importance: float | None = None


class Advised(BaseModel):
    """What was chosen for some modules, and the best of every method in no more bits.

    As far as it was tried: sizes that could not be chosen are passed over (``stages.options``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    chosen: Choice
    alternatives: tuple[Choice, ...]

    @property
    def quantise(self) -> bool:
        """Whether rounding was predicted to beat every decomposition at these bits."""
        return self.chosen.method == ROUNDING


class Advice(BaseModel):
    """Choices that cover every module of a model once, within a budget of bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    saved: float
    dense_bits: int
    stored_bits: int
    damage: float
    modules: tuple[Advised, ...]

    def completes(self, spec: MethodSpec, layer: int | None = None) -> MethodSpec:
        """Settings of ``advised`` with what was chosen, for one layer or for all."""
        chosen = (each.chosen for each in self.modules)
        wanted = tuple(choice for choice in chosen if layer in (None, choice.layer))
        return spec.model_copy(update={"choices": wanted})


class Spec(MethodSpec):
    """The budget of the whole model and what may be used; ``choices`` come from the advice."""

    approach: ClassVar[Approach] = "mixture"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")
    whole_groups: ClassVar[bool] = True

    method: Literal["advised"]
    saved: float = Field(gt=0, lt=1, description="share of the whole model's bits to save")
    methods: tuple[str, ...] = Field(TRIED_METHODS, description="methods that take a budget")
    quantise: bool = Field(True, description="rounding weights to nearest is an option too")
    group_size: int | None = Field(64, ge=2, description="weights that share a scale when rounded")
    choices: SkipJsonSchema[tuple[Choice, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        return left_out(given, "choices")

    @field_validator("methods")
    @classmethod
    def _budgeted(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from tensorpress.methods.registry import METHODS, spec_class

        others = (name for name in METHODS if name != "advised")
        allowed = [name for name in others if "budget" in spec_class(name).model_fields]
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise ValueError(f"{wrong[0]!r} takes no budget; allowed: {', '.join(allowed)}")
        return names

    def approach_of(self, module: str) -> Approach:
        """That of the choice for a module of the layer whose choices these are."""
        (name,) = (choice.method for choice in self.choices if module in choice.modules)
        return _approach(name)

    @property
    def needs_moments(self) -> bool:
        return True

    @property
    def needs_advice(self) -> bool:
        return True

    def approaches(self, rounded: bool) -> frozenset[Approach]:
        """Those of the choices; before they are known, of all that may be chosen."""
        if self.choices:
            names = {choice.method for choice in self.choices}
        else:
            names = {*self.methods, *[ROUNDING] * self.quantise}
        return frozenset(_approach(name) for name in names)

    @property
    def tried(self) -> tuple[str, ...]:
        return self.methods

    @property
    def asked(self) -> dict[str, Any]:
        return {"methods": self.methods, "group_size": self.group_size}

    def completed(self, advice: Sequence[Path], layer: int) -> MethodSpec:
        (file,) = advice
        return Advice.model_validate_json(file.read_text(encoding="utf-8")).completes(self, layer)

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [Layout((m,), "dense", sizes_of(s)) for m, s in layer.group(group).items()]


EXAMPLE = Spec(method="advised", saved=0.2)


def _approach(name: str) -> Approach:
    from tensorpress.methods.registry import spec_class

    return "quantisation" if name == ROUNDING else spec_class(name).approach


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """What each choice's method makes of its modules; ``spec`` holds the choices of this layer."""
    return [
        factors
        for choice in spec.choices
        if set(choice.modules) <= weights.keys()
        for factors in _made(choice, weights, layer, moments or {})
    ]


def _made(
    choice: Choice, weights: Mapping[str, Tensor], layer: LayerShape, moments: Mapping[str, Tensor]
) -> list[Factors]:
    import torch

    from tensorpress.methods.registry import load, spec_class
    from tensorpress.methods.rounding import Rounding

    within = replace(layer, modules={m: layer.modules[m] for m in choice.modules})
    if choice.method == ROUNDING:
        (module,) = choice.modules
        rounding = Rounding.model_validate(choice.settings)
        store = rounding.applied(dense_store(weights[module]), torch.bfloat16)
        return [Factors(choice.modules, store)]
    spec = spec_class(choice.method)(method=choice.method, **choice.settings)
    # both are read as they are asked for, and ``within`` names no other modules
    return load(choice.method).decompose(
        weights, within, spec, moments if spec.needs_moments else None
    )
