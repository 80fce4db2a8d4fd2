"""What was done to a model, as the facts that results carry. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tensorpress.architectures.layers import GROUPS, group_of
from tensorpress.config.recovery import Factors
from tensorpress.methods.advised import Advice
from tensorpress.methods.advised import Spec as Advised
from tensorpress.methods.approach import UNCOMPRESSED, together
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget
from tensorpress.planning.artifacts import AnyCheckpoint, RecoveryArtifact
from tensorpress.transforms.base import Transform

NO_ADVICE: Mapping[str, Advice] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What the methods of a run are together; the defaults are those of the uncompressed model.

    ``methods`` are the distinct ones in order, behind the transforms that made the model of
    another one of the study, and ``module_groups`` what they compress, joined by ``+``.
    ``approach`` is what the methods are, ``holds_tensor_format`` whether any module, or a part of
    one, is so held, and ``advised`` whether advice chose for any. ``control`` is the yardstick of
    reports that the run is, if it is one; ``rounding_bits`` are those of factors, where a recipe
    rounds them. ``trained``: what was trained after compression, ``adapters`` or ``factors``.
    ``head_layout`` says how attention was split into heads, where all methods that leave a choice
    do so alike. ``allocated``: how modules share their budget, ``uniform``, ``importance`` or
    ``loss``, where all methods have one and do so alike.
    """

    methods: str = ""
    module_groups: str = ""
    approach: str = UNCOMPRESSED
    holds_tensor_format: bool = False
    advised: bool = False
    control: str | None = None
    rounding_bits: int | None = None
    trained: str | None = None
    head_layout: str | None = None
    allocated: str | None = None


def compression_of(run: AnyCheckpoint, advices: Mapping[str, Advice] = NO_ADVICE) -> Compression:
    """What was done to the model of a checkpoint.

    ``advices`` by id say what was chosen; before that is known, it is what ``advised`` may come to.
    """
    made, specs = run.assembled, dict[str, MethodSpec]()
    for each in (placement.decomposition for placement in made.placements):
        advice = advices.get(each.advised.id) if each.advised else None
        if each.method_name not in specs:  # in the order of their first layer
            specs[each.method_name] = advice.completes(each.spec) if advice else each.spec
    used = {placement.decomposition.group for placement in made.placements}
    transforms = run.model.derived_by
    if any(each.approach != "control" for each in transforms):
        used |= {group_of(module) for module in run.model.architecture.modules}
    rounding, trained = made.rounding, None
    if isinstance(run, RecoveryArtifact):
        trained = run.spec.train
        if isinstance(run.spec, Factors):
            rounding = run.spec.rounding or rounding
    bits = rounding.bits if rounding else None
    groups = [group for group in GROUPS if group in used]
    return compression(list(specs.values()), bits, trained, groups, transforms)


def compression(
    specs: Sequence[MethodSpec],
    rounding_bits: int | None = None,
    trained: str | None = None,
    module_groups: Sequence[str] = (),
    transforms: Sequence[Transform] = (),
) -> Compression:
    """What transforms and methods are together, of the modules of these groups."""
    if not specs and not transforms:
        return Compression(trained=trained)
    approaches = {a for spec in specs for a in spec.approaches(rounding_bits is not None)}
    approaches |= {each.approach for each in transforms}
    labels = [*(each.transform for each in transforms), *(spec.label for spec in specs)]
    return Compression(
        methods="+".join(dict.fromkeys(labels)),
        module_groups="+".join(module_groups),
        approach=together(approaches),
        holds_tensor_format=any(spec.holds_tensor_format for spec in specs),
        advised=any(isinstance(spec, Advised) for spec in specs),
        control=None if transforms else _common([spec.control(rounding_bits) for spec in specs]),
        rounding_bits=rounding_bits,
        trained=trained,
        head_layout=_common([spec.head_layout for spec in specs if spec.head_layout]),
        allocated=_common([_allocated(spec) for spec in specs]),
    )


def _allocated(spec: MethodSpec) -> str | None:
    budget: Budget | None = getattr(spec, "budget", None)
    return budget.allocate if budget else None


def _common(values: Sequence[str | None]) -> str | None:
    """The value that all have."""
    return values[0] if len(set(values)) == 1 else None
