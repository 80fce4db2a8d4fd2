"""From params to the live artifacts of every stage: what exists under its key is right.

Torch-free: Snakemake and DVC both plan with this module, so neither can disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from tensorpress.architectures.layers import GROUPS, LayerShape, expand_modules
from tensorpress.config.params import BASELINE, CORPUS_FIELD, NO_LAYERS, Params, Recipe
from tensorpress.config.recovery import Recovery
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.methods.advised import Spec as Advised
from tensorpress.methods.rounding import Rounding
from tensorpress.planning import identities, nesting, pages
from tensorpress.planning.artifacts import (
    AdviceArtifact,
    AnyCheckpoint,
    CalibrationArtifact,
    CheckpointArtifact,
    DecompositionArtifact,
    EvaluationArtifact,
    FactorPlacement,
    ModelArtifact,
    OptionsArtifact,
    RecipeRun,
    RecoveryArtifact,
    Scope,
    StreamArtifact,
    TransformedArtifact,
)
from tensorpress.planning.checks import (
    check_apart,
    check_corpus,
    check_floor,
    check_gradients,
    check_group,
    check_method,
    check_modules,
    check_super_weights,
    check_task,
    check_trained,
    check_whole,
    check_window,
    layer_sets,
)
from tensorpress.planning.compression import compression_of
from tensorpress.planning.inputs import Inputs, is_wanted
from tensorpress.planning.pages import ReportArtifact, SiteArtifact
from tensorpress.sources.hub_datasets import require


class Plan(Inputs):
    """Every live artifact of a params file, checked against the models' shapes."""

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.decompositions: dict[str, DecompositionArtifact] = {}
        self._decomposed: dict[tuple[str, str, str, int, Scope | None], DecompositionArtifact] = {}
        self.options: dict[str, OptionsArtifact] = {}
        self.advices: dict[str, AdviceArtifact] = {}
        self.recipe_runs = [*self._baselines(), *self._recipe_runs()]

    @cached_property
    def fetched(self) -> dict[str, ModelArtifact]:
        """Models as they come, by id."""
        return {model.lineage[0].id: model.lineage[0] for model in self.models.values()}

    @cached_property
    def transformed(self) -> dict[str, TransformedArtifact]:
        """Models made of models, by id."""
        made = (each for model in self.models.values() for each in model.lineage)
        return {each.id: each for each in made if isinstance(each, TransformedArtifact)}

    @cached_property
    def streams(self) -> dict[str, StreamArtifact]:
        """Moments of norms that models are made by, by id."""
        return {each.stream.id: each.stream for each in self.transformed.values() if each.stream}

    @cached_property
    def runs(self) -> dict[str, CheckpointArtifact]:
        """Assembled checkpoints by id; equal ones of several recipes are one."""
        return {each.run.assembled.id: each.run.assembled for each in self.recipe_runs}

    @cached_property
    def recoveries(self) -> dict[str, RecoveryArtifact]:
        """Recovered checkpoints by id."""
        runs = (each.run for each in self.recipe_runs)
        return {run.id: run for run in runs if isinstance(run, RecoveryArtifact)}

    @cached_property
    def checkpoints(self) -> dict[str, AnyCheckpoint]:
        """Checkpoints that are evaluated, assembled or recovered, by id."""
        return {each.run.id: each.run for each in self.recipe_runs}

    @cached_property
    def evaluations(self) -> dict[str, EvaluationArtifact]:
        """Evaluations by id."""
        return {e.id: e for each in self.recipe_runs for e in each.evaluations}

    @cached_property
    def asked_options(self) -> list[tuple[OptionsArtifact, int]]:
        """Layers of which some advice asks what may be chosen."""
        asked = {(a.options.id, layer) for a in self.advices.values() for layer in a.scope.layers}
        return [(self.options[name], layer) for name, layer in sorted(asked)]

    @cached_property
    def mixtures(self) -> dict[str, AdviceArtifact]:
        """Advice that chooses methods, by id."""
        return {a.id: a for a in self.advices.values() if isinstance(a.spec, Advised)}

    @cached_property
    def used_decompositions(self) -> list[FactorPlacement]:
        """One placement per (decomposition, layer) that some run needs."""
        wanted = {
            (p.decomposition.id, p.layer): p for r in self.runs.values() for p in r.placements
        }
        return list(wanted.values())

    @cached_property
    def _largest_holders(self) -> dict[tuple[str, int], str]:
        return nesting.largest_holders(self.used_decompositions)

    def larger(self, identity: str, layer: int) -> list[Path]:
        """Factors of larger ranks that hold those of a decomposition of a layer, or nothing.

        One factorisation so serves all smaller ranks; which one is nobody's key, for the result
        is the same.
        """
        largest = self._largest_holders.get((identity, layer), identity)
        return [] if largest == identity else [paths.factors(largest, layer)]

    @cached_property
    def table_id(self) -> str:
        """Identity of the results tables."""
        rows = [
            [
                e.recipe,
                e.compared_with,
                e.layer_set,
                list(e.layers),
                e.run.id,
                asdict(compression_of(e.run)),
                [v.id for v in e.evaluations],
            ]
            for e in self.recipe_runs
        ]
        factors = sorted([p.decomposition.id, p.layer] for p in self.used_decompositions)
        return identities.table(rows, factors)

    @cached_property
    def reports(self) -> dict[str, ReportArtifact]:
        """Reports by id."""
        return {each.id: each for each in pages.reports(self.params, self.table_id)}

    @cached_property
    def site(self) -> SiteArtifact | None:
        """The reports as one folder, if there are any."""
        return pages.site(self.params, list(self.reports.values()), self.table_id)

    def _moments(self, model: ModelArtifact) -> CalibrationArtifact:
        """The calibration of a model for something that reads it."""
        settings = self.params.calibration
        check_corpus("calibration.corpus", self.corpora[settings.corpus], model)
        check_window("calibration.window", settings.window, settings.bos, model)
        return self.calibrations[model.name]

    def _decomposition(
        self, model: ModelArtifact, method: str, group: str, layer: int, scope: Scope
    ) -> DecompositionArtifact:
        """What recipes ask for again and again is checked and identified once for equal layers.

        ``scope``: what shares a budget with it.
        """
        spec = self.params.methods[method]
        like = model.architecture.representative(layer, spec)
        asked = (model.name, method, group, like, scope if spec.needs_advice else None)
        if asked not in self._decomposed:
            shape = model.architecture.shape(like)
            self._decomposed[asked] = self._checked(model, method, group, shape, scope)
        return self._decomposed[asked]

    def _checked(
        self, model: ModelArtifact, method: str, group: str, shape: LayerShape, scope: Scope
    ) -> DecompositionArtifact:
        spec = self.params.methods[method]
        check_method(method, spec, shape, group)
        check_super_weights(method, spec, model)
        advised = self._advice(model, method, scope) if spec.needs_advice else None
        moments = self._moments(model) if spec.needs_moments else None
        if spec.needs_gradients:
            check_gradients(self.params.calibration, f"methods.{method} weighs outputs")
        made = identities.decomposition(model, method, spec, group, shape, moments, advised)
        return self.decompositions.setdefault(made.id, made)

    def _advice(self, model: ModelArtifact, method: str, scope: Scope) -> AdviceArtifact:
        moments, spec = self._moments(model), self.params.methods[method]
        if spec.shared_budget is None or spec.shared_budget.allocate == "loss":
            check_gradients(moments.settings, f"methods.{method} goes by predicted loss")
        options = identities.options(moments, spec, self.params.storage.dtype)
        options = self.options.setdefault(options.id, options)
        made = identities.advice(options, spec, scope)
        check_floor(f"methods.{method}", made)
        return self.advices.setdefault(made.id, made)

    def _recovery(
        self, recipe_name: str, recipe: Recipe, spec: Recovery, run: CheckpointArtifact, seed: int
    ) -> RecoveryArtifact:
        corpus = self.corpora[spec.corpus or self.params.calibration.corpus]
        check_corpus(f"recipes.{recipe_name}.recover.corpus", corpus, run.model)
        check_trained(f"recipes.{recipe_name}.recover", spec.window, spec.bos, run.model)
        tasks = {task: self.params.tasks[task].corpora.values() for task in recipe.tasks}
        evaluated = [(task, self.corpora[name]) for task, names in tasks.items() for name in names]
        check_apart(f"recipes.{recipe_name}.recover.corpus", corpus, evaluated)
        return identities.recovery(run, spec, seed, corpus, self.params.compute.dtype)

    def _evaluation(self, run: AnyCheckpoint, task: str) -> EvaluationArtifact:
        spec, model = self.params.tasks[task], run.model
        corpora = {role: self.corpora[name] for role, name in spec.corpora.items()}
        check_task(task, spec, model)
        for role, corpus in corpora.items():
            check_corpus(f"tasks.{task}.{CORPUS_FIELD.get(role, role)}", corpus, model)
        dense = self._run(model, ()) if spec.needs_dense else None
        moments = self._moments(model) if spec.needs_moments else None
        files = self.task_files[task]
        compute = self.params.compute.dtype
        artifact = identities.evaluation(run, dense, task, spec, corpora, files, moments, compute)
        if spec.dataset and is_wanted(paths.evaluation_rows(artifact.id)):
            require(spec.dataset, f"tasks.{task}")
        return artifact

    def _run(
        self,
        model: ModelArtifact,
        placements: tuple[FactorPlacement, ...],
        rounding: Rounding | None = None,
    ) -> CheckpointArtifact:
        return identities.checkpoint(model, placements, self.params.storage.dtype, rounding)

    def _baselines(self) -> Iterator[RecipeRun]:
        for model in self.models.values():
            # what is derived of a model is compared with it
            made = (m.name for m in self.models.values() if m.compared_model == model.name)
            alike = dict.fromkeys([model.name, *made])
            recipes = [r for r in self.params.recipes.values() if {*alike} & {*r.models}]
            tasks = {t: None for r in recipes for t in r.tasks if not self._compares(t)}
            tasks |= {t: None for name in alike for t in self.params.models[name].baseline_tasks}
            run = self._run(model, ())
            evaluations = tuple(self._evaluation(run, task) for task in tasks)
            yield RecipeRun(BASELINE, None, NO_LAYERS, (), run, None, evaluations)

    def _compares(self, task: str) -> bool:
        return self.params.tasks[task].needs_dense

    def _recipe_runs(self) -> Iterator[RecipeRun]:
        for name, recipe in self.params.recipes.items():
            for model in (self.models[m] for m in recipe.models):
                for layer_set in recipe.layers:
                    spec = self.params.layer_sets[layer_set]
                    for layers in layer_sets(spec, model.architecture.layers, layer_set):
                        placements = self._placements(name, recipe, model, layers)
                        run = self._run(model, placements, recipe.rounding)
                        for final, seed in self._final_runs(name, recipe, run):
                            evaluations = (self._evaluation(final, task) for task in recipe.tasks)
                            yield RecipeRun(
                                name,
                                recipe.compared_with,
                                layer_set,
                                layers,
                                final,
                                seed,
                                tuple(evaluations),
                            )

    def _final_runs(
        self, name: str, recipe: Recipe, run: CheckpointArtifact
    ) -> Iterator[tuple[AnyCheckpoint, int | None]]:
        """The compressed checkpoint, or one recovered from it for every seed."""
        if recipe.recover is None:
            yield run, None
            return
        for seed in recipe.recover.seeds:
            yield self._recovery(name, recipe, recipe.recover, run, seed), seed

    def _placements(
        self, recipe_name: str, recipe: Recipe, model: ModelArtifact, layers: tuple[int, ...]
    ) -> tuple[FactorPlacement, ...]:
        architecture = model.architecture
        placements: list[FactorPlacement] = []
        taken: dict[tuple[int, str], int] = {}
        for index, step in enumerate(recipe.steps):
            where = f"recipes.{recipe_name}.steps.{index}"
            modules = expand_modules(step.modules, architecture.modules)
            check_modules(where, step.modules, model)
            scope = Scope(modules, layers)
            for layer in (*layers, architecture.outer):
                for group in GROUPS:
                    present = architecture.shape(layer).group(group)
                    chosen = tuple(m for m in modules if m in present)
                    if not chosen:
                        continue
                    decomposition = self._decomposition(model, step.method, group, layer, scope)
                    if isinstance(self.params.methods[step.method], Advised):
                        check_whole(where, step.modules, layers, model)
                    check_group(where, step.method, decomposition, chosen, present)
                    for module in chosen:
                        if taken.setdefault((layer, module), index) != index:
                            raise TensorpressError(
                                f"{where}.modules: {module!r} is already compressed by step "
                                f"{taken[layer, module]}; allowed: each module once"
                            )
                    placements.append(decomposition.placed(layer, chosen))
        return tuple(sorted(placements, key=lambda p: (p.layer, p.modules)))
