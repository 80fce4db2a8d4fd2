"""The jobs that make a plan's live artifacts: what rules, ``status`` and DVC go by. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tensorpress.files import paths
from tensorpress.methods.registry import METHODS
from tensorpress.planning.artifacts import TransformedArtifact

if TYPE_CHECKING:
    from tensorpress.planning.artifacts import CalibrationArtifact
    from tensorpress.planning.plan import Plan

_STAGES = {
    "fetch_model": "fetch",
    "fetch_corpus": "fetch",
    "options": "advise",
    "report": "reports",
    "stream": "transform",
}
"""Stages that are not named as their rule."""


@dataclass(frozen=True)
class Job:
    """One job of a plan; ``model`` is empty where it serves several."""

    rule: str
    name: str
    model: str
    outputs: tuple[Path, ...]

    @property
    def stage(self) -> str:
        """The folder of ``results`` that it writes into."""
        return _STAGES.get(self.rule, self.rule)


def live_jobs(plan: Plan) -> list[Job]:
    """The jobs that make what the study needs, in the order of the pipeline."""
    models = {each.id: each for run in plan.runs.values() for each in run.model.lineage}
    calibrations = {each.id: each for each in _calibrations(plan)}
    corpora = {c.id for e in plan.evaluations.values() for c in e.corpora.values()}
    corpora |= {each.corpus.id for each in calibrations.values()}
    corpora |= {each.corpus.id for each in plan.recoveries.values()}
    streams = [
        each.stream
        for each in models.values()
        if isinstance(each, TransformedArtifact) and each.stream
    ]
    corpora |= {each.corpus.id for each in streams}
    tables = (paths.results_table, paths.decompositions_table, paths.jobs_table)
    return [
        *(Job("fetch_model", m.id, m.name, (m.checkpoint,))
          for m in models.values() if m.id in plan.fetched),
        *(Job("fetch_corpus", name, "", (paths.corpus(name),)) for name in sorted(corpora)),
        *(Job("stream", s.id, s.model.name, (paths.stream(s.id),))
          for s in {each.id: each for each in streams}.values()),
        *(Job("transform", m.id, m.name, (m.checkpoint,))
          for m in models.values() if m.id in plan.transformed),
        *(Job("calibrate", c.id, c.model.name, (paths.calibration(c.id),))
          for c in calibrations.values()),
        *(Job("options", o.job_name(layer), o.calibration.model.name, (paths.options(o.id, layer),))
          for o, layer in plan.asked_options),
        *(Job("advise", a.id, a.options.calibration.model.name, (paths.advice(a.id),))
          for a in plan.advices.values()),
        *(Job("decompose", p.job_name, p.decomposition.model.name, (p.factors, p.rows))
          for p in plan.used_decompositions),
        *(Job("assemble", r.id, r.model.name, (r.checkpoint, r.storage))
          for r in plan.runs.values()),
        *(Job("recover", r.id, r.model.name, (r.checkpoint, r.storage))
          for r in plan.recoveries.values()),
        *(Job("evaluate", e.id, e.run.model.name, (paths.evaluation_rows(e.id),))
          for e in plan.evaluations.values()),
        Job("aggregate", plan.table_id, "", tuple(table(plan.table_id) for table in tables)),
        *(Job("report", r.id, r.spec.model, (paths.report(r.id),)) for r in plan.reports.values()),
        *(Job("site", s.id, "", (paths.site(s.id),)) for s in [plan.site] if s),
    ]  # fmt: skip


def live_paths(plan: Plan) -> dict[str, list[str]]:
    """Paths of all live artifacts, by stage."""
    found: dict[str, list[str]] = {stage: [] for stage in paths.STAGES}
    for job in live_jobs(plan):
        found[job.stage] += map(str, job.outputs)
    return {stage: sorted(each) for stage, each in found.items()}


def slow_imports(plan: Plan, rules: Collection[str]) -> list[str]:
    """Modules that the jobs of ``rules`` import and that take long."""
    types = sorted({model.architecture.family.model_type for model in plan.models.values()})
    # the text part of a model of several kinds of input is in the whole's module
    names = dict.fromkeys(name for each in types for name in (each, each.removesuffix("_text")))
    running = [f"transformers.models.{name}.modeling_{name}" for name in names]
    tasks = sorted({evaluation.spec.entry for evaluation in plan.evaluations.values()})
    methods = [METHODS[each] for each in sorted({m.method for m in plan.params.methods.values()})]
    wanted = {
        "fetch_model": running,
        "stream": running,
        "transform": [],
        "calibrate": running,
        "options": methods,
        "advise": ["scipy.optimize"],
        "decompose": methods,
        "assemble": [],
        "recover": running,
        "evaluate": [*running, *tasks],
        "report": [
            "papermill", "nbconvert", "tensorpress.running.kernel", "tensorpress.report.pages"
        ],
        "site": [],
    }  # fmt: skip
    chosen = [rule for rule in wanted if rule in rules]
    stages = [f"tensorpress.stages.{rule}" for rule in chosen]
    return [*stages, *dict.fromkeys(module for rule in chosen for module in wanted[rule])]


def _calibrations(plan: Plan) -> Iterator[CalibrationArtifact]:
    """Those that something reads."""
    read = [each.decomposition.calibration for each in plan.used_decompositions]
    read += [each.calibration for each in plan.evaluations.values()]
    return (each for each in read if each is not None)
