"""From params to the live artifacts of every stage: what exists under its key is right.

Torch-free: Snakemake and DVC both plan with this module, so neither can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from tensorpress import paths
from tensorpress.artifacts import (
    CalibrationArtifact,
    CorpusArtifact,
    DecompositionArtifact,
    EvaluationArtifact,
    ModelArtifact,
    Placement,
    RecipeRun,
    ReportArtifact,
    RunArtifact,
)
from tensorpress.errors import TensorpressError
from tensorpress.keys import code_fingerprint, file_fingerprint, key
from tensorpress.layers import GROUPS, LayerShape, expand_modules, group_of, middle, middle_out
from tensorpress.methods.base import MethodSpec
from tensorpress.params import (
    EmbeddedModel,
    LayerSet,
    MiddleLayers,
    MiddleOutLayers,
    Params,
    Recipe,
    Report,
)
from tensorpress.registry import METHODS
from tensorpress.sources import corpus_source, model_config, model_source

BASELINE = "baseline"
"""Recipe name of the uncompressed model; every model has it."""


class Plan:
    """Every live artifact of a params file, checked against the models' shapes."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.corpora = {name: self._corpus(name) for name in params.corpora}
        self.models = {name: self._model(name) for name in params.models}
        self.calibrations = {m.name: self._calibration(m) for m in self.models.values()}
        self.decompositions: dict[str, DecompositionArtifact] = {}
        self.recipe_runs = [*self._baselines(), *self._recipe_runs()]

    @cached_property
    def runs(self) -> dict[str, RunArtifact]:
        """Compressed checkpoints by id; equal ones of several recipes are one."""
        return {each.run.id: each.run for each in self.recipe_runs}

    @cached_property
    def evaluations(self) -> dict[str, EvaluationArtifact]:
        """Evaluations by id."""
        return {e.id: e for each in self.recipe_runs for e in each.evaluations}

    @cached_property
    def used_decompositions(self) -> list[Placement]:
        """One placement per (decomposition, layer) that some run needs."""
        wanted = {
            (p.decomposition.id, p.layer): p for r in self.runs.values() for p in r.placements
        }
        return list(wanted.values())

    @cached_property
    def table_id(self) -> str:
        """Identity of the results tables."""
        rows = [
            [e.recipe, e.layer_set, list(e.layers), e.run.id, [v.id for v in e.evaluations]]
            for e in self.recipe_runs
        ]
        factors = sorted([p.decomposition.id, p.layer] for p in self.used_decompositions)
        code = code_fingerprint("tensorpress.aggregation")
        return f"table-{key(stage='aggregate', rows=rows, factors=factors, code=code)}"

    @cached_property
    def reports(self) -> dict[str, ReportArtifact]:
        """Reports by id."""
        queries = file_fingerprint(*sorted(paths.QUERIES.glob("*.sql")))
        made = (self._report(name, spec, queries) for name, spec in self.params.reports.items())
        return {report.id: report for report in made}

    def live(self) -> dict[str, list[str]]:
        """Paths of all live artifacts, by stage."""
        used_corpora = {c.id for e in self.evaluations.values() for c in e.corpora.values()}
        calibrations = [
            p.decomposition.calibration for p in self.used_decompositions
            if p.decomposition.calibration is not None
        ]  # fmt: skip
        used_corpora |= {c.corpus.id for c in calibrations}
        used_models = {r.model.id for r in self.runs.values()}
        found = {
            "fetch": [paths.model(i) for i in used_models]
            + [paths.corpus(i) for i in used_corpora],
            "calibrate": [paths.calibration(c.id) for c in calibrations],
            "decompose": [path for p in self.used_decompositions for path in (p.factors, p.rows)],
            "assemble": [path for i in self.runs for path in (paths.run(i), paths.storage_rows(i))],
            "evaluate": [paths.evaluation_rows(i) for i in self.evaluations],
            "aggregate": [
                paths.results_table(self.table_id),
                paths.decompositions_table(self.table_id),
            ],
            "reports": [paths.report(i) for i in self.reports],
        }
        return {stage: sorted({str(p) for p in found[stage]}) for stage in paths.STAGES}

    def _corpus(self, name: str) -> CorpusArtifact:
        spec = self.params.corpora[name]
        source = corpus_source(name, spec)
        code = code_fingerprint("tensorpress.embedded.corpus")
        content = key(stage="corpus", source=source, code=code)
        return CorpusArtifact(name, spec, content)

    def _model(self, name: str) -> ModelArtifact:
        spec = self.params.models[name]
        embedded = isinstance(spec, EmbeddedModel)
        entries = ["tensorpress.fetching"] + ["tensorpress.embedded.training"] * embedded
        content = key(
            stage="fetch", source=model_source(name, spec), code=code_fingerprint(*entries)
        )
        artifact = ModelArtifact(name, spec, content, model_config(name, spec))
        artifact.family.layer_shape(artifact.config, 0)
        return artifact

    def _calibration(self, model: ModelArtifact) -> CalibrationArtifact:
        settings = self.params.calibration
        corpus = self.corpora[settings.corpus]
        _check_window("calibration.window", settings.window, model)
        content = key(
            stage="calibrate",
            model=model.key,
            corpus=corpus.key,
            settings=settings.model_dump(exclude={"corpus"}),
            code=code_fingerprint("tensorpress.calibration", _family_module(model)),
        )
        return CalibrationArtifact(model, corpus, settings, content)

    def _decomposition(
        self, model: ModelArtifact, method: str, group: str, shape: LayerShape
    ) -> DecompositionArtifact:
        spec = self.params.methods[method]
        formats = {layout.format for layout in spec.layouts(shape, group)}
        calibration = self.calibrations[model.name] if spec.needs_moments else None
        content = key(
            stage="decompose",
            model=model.key,
            spec=spec.model_dump(),
            group=group,
            moments=calibration.key if calibration else None,
            code=code_fingerprint(
                "tensorpress.decomposition",
                METHODS[spec.method],
                _family_module(model),
                *(f"tensorpress.formats.{name}" for name in sorted(formats)),
            ),
        )
        artifact = DecompositionArtifact(model, method, spec, group, calibration, content)
        return self.decompositions.setdefault(artifact.id, artifact)

    def _run(self, model: ModelArtifact, placements: tuple[Placement, ...]) -> RunArtifact:
        dtype = self.params.storage.dtype
        content = key(
            stage="assemble",
            model=model.key,
            placements=[[p.layer, list(p.modules), p.decomposition.key] for p in placements],
            dtype=dtype,
            code=code_fingerprint(
                "tensorpress.assembly",
                "tensorpress.manifest",
                "tensorpress.formats.model",
                _family_module(model),
            ),
        )
        return RunArtifact(model, placements, dtype, _label(placements), content)

    def _evaluation(self, run: RunArtifact, task: str) -> EvaluationArtifact:
        spec = self.params.tasks[task]
        corpora = {role: self.corpora[name] for role, name in spec.corpora.items()}
        window = getattr(spec, "window", None)
        if window is not None:
            _check_window(f"tasks.{task}.window", window, run.model)
        if spec.needs_experts and not any(
            group_of(m) == "experts" for m in run.model.family.all_modules(run.model.config)
        ):
            raise TensorpressError(
                f"models.{run.model.name}: task {task!r} is not allowed; "
                "allowed: tasks for models without experts"
            )
        dense = self._run(run.model, ()) if spec.needs_dense else None
        content = key(
            stage="evaluate",
            run=run.key,
            dense=dense.key if dense else None,
            spec=spec.model_dump(exclude=set(spec.corpora)),
            corpora={role: corpus.key for role, corpus in corpora.items()},
            code=code_fingerprint(spec.entry),
        )
        return EvaluationArtifact(run, dense, task, spec, corpora, content)

    def _baselines(self) -> Iterator[RecipeRun]:
        for model in self.models.values():
            recipes = [r for r in self.params.recipes.values() if model.name in r.models]
            tasks = {t: None for r in recipes for t in r.tasks if not self._compares(t)}
            tasks |= dict.fromkeys(model.spec.baseline_tasks)
            run = self._run(model, ())
            evaluations = tuple(self._evaluation(run, task) for task in tasks)
            yield RecipeRun(BASELINE, "none", (), run, evaluations)

    def _compares(self, task: str) -> bool:
        return self.params.tasks[task].needs_dense

    def _recipe_runs(self) -> Iterator[RecipeRun]:
        for name, recipe in self.params.recipes.items():
            for key_, given in (("lora", recipe.lora), ("rounding", recipe.rounding)):
                if given is not None:
                    raise TensorpressError(
                        f"recipes.{name}.{key_}: counted by tensorpress plan, not run by the "
                        "pipeline; allowed here: leave it out"
                    )
            for model in (self.models[m] for m in recipe.models):
                for layer_set in recipe.layers:
                    spec = self.params.layer_sets[layer_set]
                    for layers in layer_sets(spec, model.layer_count, layer_set):
                        run = self._run(model, self._placements(name, recipe, model, layers))
                        evaluations = tuple(self._evaluation(run, task) for task in recipe.tasks)
                        yield RecipeRun(name, layer_set, layers, run, evaluations)

    def _placements(
        self, recipe_name: str, recipe: Recipe, model: ModelArtifact, layers: tuple[int, ...]
    ) -> tuple[Placement, ...]:
        available = model.family.all_modules(model.config)
        placements: list[Placement] = []
        taken: dict[tuple[int, str], int] = {}
        for index, step in enumerate(recipe.steps):
            where = f"recipes.{recipe_name}.steps.{index}"
            modules = expand_modules(step.modules, available)
            lacking = [m for m in step.modules if not _offered(m, available)]
            if lacking:
                raise TensorpressError(
                    f"{where}.modules: {lacking[0]!r} is not in model {model.name!r}; "
                    f"allowed: all, {', '.join(available)}"
                )
            for layer in (*layers, model.layer_count):  # the last holds the embedding
                shape = model.family.layer_shape(model.config, layer)
                for group in GROUPS:
                    present = shape.group(group)
                    chosen = tuple(m for m in modules if m in present)
                    if not chosen:
                        continue
                    _check_method(step.method, self.params.methods[step.method], shape, group)
                    decomposition = self._decomposition(model, step.method, group, shape)
                    if decomposition.spec.whole_groups and len(chosen) < len(present):
                        raise TensorpressError(
                            f"{where}.modules: {list(chosen)} is not allowed: method "
                            f"{step.method!r} shares factors; allowed: all of {group}"
                        )
                    for module in chosen:
                        if taken.setdefault((layer, module), index) != index:
                            raise TensorpressError(
                                f"{where}.modules: {module!r} is already compressed by step "
                                f"{taken[layer, module]}; allowed: each module once"
                            )
                    placements.append(Placement(layer, chosen, decomposition))
        return tuple(sorted(placements, key=lambda p: (p.layer, p.modules)))

    def _report(self, name: str, spec: Report, queries: str) -> ReportArtifact:
        notebook = paths.NOTEBOOKS / f"{spec.notebook}.ipynb"
        content = key(
            stage="reports",
            table=self.table_id,
            spec=spec.model_dump(),
            files=[queries, file_fingerprint(notebook)],
            code=code_fingerprint("tensorpress.reporting"),
        )
        return ReportArtifact(name, spec, content)


def layer_sets(spec: LayerSet, layers: int, name: str) -> list[tuple[int, ...]]:
    """The sets of layers that a layer set stands for: one, or with ``each`` one per layer."""
    if spec == "each":
        return [(layer,) for layer in range(layers)]
    if spec == "all":
        return [tuple(range(layers))]
    at = f"layer_sets.{name}"
    if isinstance(spec, MiddleLayers):
        _check_limit(f"{at}.middle", spec.middle, layers - layers // 2)
        return [middle(layers, spec.middle)]
    if isinstance(spec, MiddleOutLayers):
        _check_limit(f"{at}.middle_out", spec.middle_out, layers)
        return [middle_out(layers, spec.middle_out)]
    listed = tuple(sorted(set(spec)))
    for layer in listed:
        if layer >= layers:
            raise TensorpressError(f"{at}: {layer} is not allowed; allowed: 0 to {layers - 1}")
    return [listed]


def _check_limit(at: str, value: int, limit: int) -> None:
    if value > limit:
        raise TensorpressError(f"{at}: {value} is not allowed; allowed: 1 to {limit}")


def _check_window(at: str, window: int, model: ModelArtifact) -> None:
    limit = model.config.get("max_position_embeddings")
    if limit and window > limit:
        raise TensorpressError(
            f"{at}: {window} is not allowed; allowed: up to {limit}, "
            f"max_position_embeddings of model {model.name!r}"
        )


def _check_method(name: str, spec: MethodSpec, shape: LayerShape, group: str) -> None:
    try:
        if group == "embedding" and spec.needs_moments:
            raise TensorpressError("whiten: an embedding has no inputs to weigh; allowed: none")
        spec.check(shape, group)
    except TensorpressError as error:
        raise TensorpressError(f"methods.{name}.{error}") from error


def _offered(name: str, available: tuple[str, ...]) -> bool:
    return name == "all" or name in available or any(group_of(m) == name for m in available)


def _family_module(model: ModelArtifact) -> str:
    return f"tensorpress.families.{model.family.model_type}"


def _label(placements: tuple[Placement, ...]) -> str:
    """Readable part of a run's name: methods and layers; the key tells equal labels apart."""
    if not placements:
        return BASELINE
    methods = "+".join(dict.fromkeys(p.decomposition.method_name for p in placements))
    layers = sorted({p.layer for p in placements})
    together = layers == list(range(layers[0], layers[-1] + 1))
    parts = [layers[0], layers[-1]] if together and len(layers) > 1 else layers
    span = ("-" if together else "_").join(map(str, parts))
    return f"{methods[:40]}-L{span[:20]}"
