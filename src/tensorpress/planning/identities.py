"""The identity of every artifact: what its key covers, and nothing else. Torch-free.

The code that counts is what ``stages.<rule>.run`` reaches, and with it what that finds by a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.shortcuts import SHORTCUTS
from tensorpress.config.base_task import BaseTask
from tensorpress.config.params import BASELINE, Calibration
from tensorpress.config.recovery import Recovery
from tensorpress.keying.fingerprints import all_modules, code_fingerprint
from tensorpress.keying.keys import key
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.registry import METHODS
from tensorpress.methods.rounding import Rounding
from tensorpress.objectives.registry import OBJECTIVES
from tensorpress.planning.artifacts import (
    AdviceArtifact,
    AnyCheckpoint,
    CalibrationArtifact,
    CheckpointArtifact,
    CorpusArtifact,
    DecompositionArtifact,
    EvaluationArtifact,
    FactorPlacement,
    ModelArtifact,
    OptionsArtifact,
    RecoveryArtifact,
    Scope,
    StreamArtifact,
    TransformedArtifact,
)
from tensorpress.sources.contents import (
    FETCHERS,
    READERS,
    corpus_source,
    fetched_config,
    model_config,
    model_source,
)
from tensorpress.sources.embedded.specs import EMBEDDED
from tensorpress.sources.inputs import ConfigModel, Corpus, EmbeddedModel, Model
from tensorpress.sources.quantised import quantisation
from tensorpress.transforms.base import Transform
from tensorpress.transforms.registry import TRANSFORMS

_SHORTCUTS = "tensorpress.formats.shortcuts"
"""Code that travels in a checkpoint whose stream is turned at every norm."""
_BUNDLED = ("tensorpress.formats.model", "tensorpress.formats.modules")
"""Code that travels in a checkpoint and builds its model."""
_ROUNDING = "tensorpress.methods.rounding:Rounding"
"""How the setting of a recipe is applied to factors."""


def corpus(name: str, spec: Corpus) -> CorpusArtifact:
    """A text: its source, and the code that makes or cuts it."""
    code = code_fingerprint(job_code("fetch_corpus"), READERS[spec.source])
    content = key(stage="corpus", source=corpus_source(name, spec), code=code)
    return CorpusArtifact(name, spec, content)


def model(name: str, spec: Model, dtype: str) -> ModelArtifact:
    """A checkpoint: its source, and the code that trains an embedded one or reads what is there.

    What others call their weights is found by their family; an embedded one is saved by the class
    that runs it. Quantised weights are stored in ``dtype``, others as they are.
    """
    architecture = architecture_of(fetched_config(name, spec, dtype), f"models.{name}")
    entries = [job_code("fetch_model")]
    source = model_source(name, spec)
    if not isinstance(spec, ConfigModel):
        entries.append(FETCHERS[spec.source])
    if isinstance(spec, EmbeddedModel):
        entries.append(EMBEDDED[spec.name].lessons)
    else:
        entries.append(_family(architecture))
    codes = quantisation(model_config(name, spec), f"models.{name}")
    if codes is not None:
        entries.append(codes.reader)
        source = {**source, "dtype": dtype}
    content = key(stage="fetch", source=source, code=code_fingerprint(*entries))
    return ModelArtifact(name, spec, content, codes is not None, architecture)


def stream(
    of: ModelArtifact, text: CorpusArtifact, settings: Calibration, dtype: str
) -> StreamArtifact:
    """Moments of norms: model, text and settings but gradients, of which it takes none."""
    content = key(
        stage="stream",
        model=of.key,
        corpus=text.key,
        settings=settings.model_dump(exclude={"corpus", "gradients"}),
        **_precision(dtype),
        code=code_fingerprint(
            job_code("stream"), _family(of.architecture), _objective(of.architecture)
        ),
    )
    return StreamArtifact(of, text, settings, dtype, content)


def transformed(
    name: str, of: ModelArtifact, transform: Transform, moments: StreamArtifact | None
) -> TransformedArtifact:
    """A model made of a model: that model, the transform, and the moments if it reads them."""
    architecture = transform.planned(of.architecture, f"models.{name}.transform")
    brought = [_SHORTCUTS] if SHORTCUTS in architecture.config else []
    content = key(
        stage="transform",
        model=of.key,
        transform=transform.model_dump(),
        moments=moments.key if moments else None,
        code=code_fingerprint(
            job_code("transform"),
            f"{TRANSFORMS[transform.transform]}:Spec",
            _family(of.architecture),
            *brought,
        ),
    )
    return TransformedArtifact(
        name, of.spec, content, of.is_quantised, architecture, of, transform, moments
    )


def calibration(
    of: ModelArtifact, text: CorpusArtifact, settings: Calibration, dtype: str
) -> CalibrationArtifact:
    """Moments: model, text and settings."""
    content = key(
        stage="calibrate",
        model=of.key,
        corpus=text.key,
        settings=settings.model_dump(exclude={"corpus"}),
        **_precision(dtype),
        code=code_fingerprint(
            job_code("calibrate"), _family(of.architecture), _objective(of.architecture)
        ),
    )
    return CalibrationArtifact(of, text, settings, dtype, content)


def options(moments: CalibrationArtifact, spec: MethodSpec, dtype: str) -> OptionsArtifact:
    """What may be chosen: moments, and what a method asks for; no budget."""
    content = key(
        stage="options",
        moments=moments.key,
        asked=spec.asked,
        dtype=dtype,
        code=code_fingerprint(
            job_code("options"),
            *(entry for name in spec.tried for entry in _method(name)),
            *all_modules("tensorpress.formats"),
            _family(moments.model.architecture),
        ),
    )
    return OptionsArtifact(moments, spec, dtype, content)


def advice(of: OptionsArtifact, spec: MethodSpec, scope: Scope) -> AdviceArtifact:
    """Pre-flight choices: what there is to choose, the budget, and what shares it."""
    content = key(
        stage="advise",
        options=of.key,
        spec=spec.model_dump(),
        scope=[scope.modules, scope.layers],
        code=code_fingerprint(job_code("advise"), _family(of.calibration.model.architecture)),
    )
    return AdviceArtifact(of, spec, scope, content)


def decomposition(
    of: ModelArtifact,
    method_name: str,
    spec: MethodSpec,
    group: str,
    shape: LayerShape,
    moments: CalibrationArtifact | None,
    advised: AdviceArtifact | None,
) -> DecompositionArtifact:
    """Factors: model, settings, group, the moments and the advice if they are read."""
    layouts = spec.layouts(shape, group)
    formats = {name for layout in layouts for name in layout.formats}
    content = key(
        stage="decompose",
        model=of.key,
        spec=spec.model_dump(),
        group=group,
        moments=moments.key if moments else None,
        advice=advised.key if advised else None,
        code=code_fingerprint(
            job_code("decompose"),
            *_method(spec.method),
            _family(of.architecture),
            *(f"tensorpress.formats.{name}" for name in sorted(formats)),
        ),
    )
    return DecompositionArtifact(of, method_name, spec, group, moments, advised, content)


def checkpoint(
    of: ModelArtifact,
    placements: tuple[FactorPlacement, ...],
    dtype: str,
    rounding: Rounding | None = None,
) -> CheckpointArtifact:
    """A compressed checkpoint: model, factors, how they are stored."""
    content = key(
        stage="assemble",
        model=of.key,
        placements=[[p.layer, list(p.modules), p.decomposition.key] for p in placements],
        dtype=dtype,
        rounding=rounding.model_dump() if rounding else None,
        code=code_fingerprint(
            job_code("assemble"),
            *_BUNDLED,
            _family(of.architecture),
            *[_ROUNDING] * bool(rounding),
        ),
    )
    return CheckpointArtifact(
        of, placements, dtype, _label(placements, rounding), content, rounding
    )


def recovery(
    of: CheckpointArtifact, spec: Recovery, seed: int, text: CorpusArtifact, dtype: str
) -> RecoveryArtifact:
    """A recovered checkpoint: text, settings, seed, and the compressed one.

    The key of that covers the family and the code that travels in it.
    """
    content = key(
        stage="recover",
        run=of.key,
        corpus=text.key,
        spec=spec.model_dump(exclude={"corpus", "seeds"}),
        seed=seed,
        **_precision(dtype),
        code=code_fingerprint(
            job_code("recover"),
            *[_ROUNDING] * bool(spec.rounding),
            _objective(of.model.architecture),
        ),
    )
    return RecoveryArtifact(of, spec, seed, text, dtype, content)


def evaluation(
    of: AnyCheckpoint,
    dense: CheckpointArtifact | None,
    task_name: str,
    spec: BaseTask,
    corpora: dict[str, CorpusArtifact],
    files: Mapping[str, str],
    moments: CalibrationArtifact | None,
    compute: str,
) -> EvaluationArtifact:
    """Metrics: checkpoints, task, texts; ``files``: content of the task's own ones by field."""
    dtype = spec.runs_in(compute)
    content = key(
        stage="evaluate",
        run=of.key,
        dense=dense.key if dense else None,
        moments=moments.key if moments else None,
        spec=spec.model_dump(exclude={*spec.corpora, *spec.files}),
        corpora={role: [text.key, text.spec.joined] for role, text in corpora.items()},
        files=dict(files),
        **_precision(dtype),
        code=code_fingerprint(
            job_code("evaluate"),
            f"{spec.entry}:evaluate",
            *[_objective(of.model.architecture)] * spec.follows_objective,
        ),
    )
    return EvaluationArtifact(of, dense, task_name, spec, corpora, moments, dtype, content)


def table(rows: list[Any], factors: list[Any]) -> str:
    """Identity of the results tables: rows of all runs, factors of all decompositions."""
    code = code_fingerprint(job_code("aggregate"))
    return f"table-{key(stage='aggregate', rows=rows, factors=factors, code=code)}"


def _precision(dtype: str) -> dict[str, str]:
    """What a key has of the dtype in which models run: nothing of the usual one."""
    return {} if dtype == "float32" else {"compute": dtype}


def job_code(rule: str) -> str:
    """The function that does a rule's job, as fingerprints know it."""
    return f"tensorpress.stages.{rule}:run"


def _method(name: str) -> tuple[str, str]:
    return f"{METHODS[name]}:Spec", f"{METHODS[name]}:decompose"


def _family(of: Architecture) -> str:
    return of.family.code


def _objective(of: Architecture) -> str:
    return f"{OBJECTIVES[of.family.objective]}:OBJECTIVE"


def _label(placements: tuple[FactorPlacement, ...], rounding: Rounding | None) -> str:
    """Readable part of a run's name: methods, rounding, layers; the key tells equal ones apart."""
    if not placements:
        return BASELINE
    methods = "+".join(dict.fromkeys(p.decomposition.method_name for p in placements))
    layers = sorted({p.layer for p in placements})
    together = layers == list(range(layers[0], layers[-1] + 1))
    parts = [layers[0], layers[-1]] if together and len(layers) > 1 else layers
    span = ("-" if together else "_").join(map(str, parts))
    width = f"-{rounding.label}" if rounding else ""
    return f"{methods[:40]}{width}-L{span[:20]}"
