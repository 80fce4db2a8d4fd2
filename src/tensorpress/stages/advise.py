"""Rule advise: which method and size for every module of a model, or which ranks of one method.

Predicted damages add up, so the choice of least damage under a budget of bits is a knapsack
(``analysis.knapsack``); ranks of one method are steps along curves (``analysis.allocation``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tensorpress.analysis.knapsack import choose
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.files.atomic import replacing
from tensorpress.files.storage import VALUE_BITS
from tensorpress.methods.advised import ROUNDING, Advice, Advised, Choice, Options, Spec
from tensorpress.methods.allocation import Allocation
from tensorpress.planning.artifacts import AdviceArtifact
from tensorpress.stages.allocation import allocated


def run(made: AdviceArtifact, model: Path, options: Sequence[Path], target: Path) -> None:
    """Write the choices as JSON; ``options`` of the layers of ``made.scope``."""
    read = [Options.model_validate_json(path.read_text(encoding="utf-8")) for path in options]
    result: Advice | Allocation
    if isinstance(made.spec, Spec):
        dense_bits = VALUE_BITS[made.options.dtype] * _values(Checkpoint.open(model))
        result = advise([each for of in read for each in of.choices], made.spec, dense_bits)
    else:
        result = allocated(read, made)
    with replacing(target) as temporary:
        temporary.write_text(result.model_dump_json(indent=1), encoding="utf-8")


def advise(options: Sequence[Choice], spec: Spec, dense_bits: int) -> Advice:
    """The choice among the options of all layers; ``dense_bits`` are the whole model's."""
    found = [each for each in options if spec.quantise or each.method != ROUNDING]
    to_save = math.ceil(spec.saved * dense_bits)
    compressible = sum(c.dense_bits for c in found if c.method == "dense")
    chosen = choose(found, compressible - to_save)
    return Advice(
        saved=spec.saved,
        dense_bits=dense_bits,
        stored_bits=dense_bits - compressible + sum(c.bits for c in chosen),
        damage=sum(c.damage for c in chosen),
        modules=tuple(
            Advised(chosen=c, alternatives=tuple(alternatives(found, c))) for c in chosen
        ),
    )


def alternatives(found: Sequence[Choice], chosen: Choice) -> list[Choice]:
    """The best option of each method on the same modules that takes no more bits."""
    same = [c for c in found if c.layer == chosen.layer and c.modules == chosen.modules]
    fitting = [c for c in same if c.bits <= chosen.bits]
    best = {c.method: c for c in sorted(fitting, key=lambda c: -c.damage)}
    return sorted(best.values(), key=lambda c: c.damage)


def _values(checkpoint: Checkpoint) -> int:
    """Values of a model; files hold a tied matrix once."""
    return sum(math.prod(shape) for shape in checkpoint.shapes().values())
