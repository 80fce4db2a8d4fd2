"""What params say against what a model has: refused before any job. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tensorpress.architectures.layers import LayerShape, group_of, middle, middle_out
from tensorpress.config.base_task import BaseTask
from tensorpress.config.params import Calibration, LayerSet, MiddleLayers, MiddleOutLayers
from tensorpress.config.tasks.registry import kinds_for
from tensorpress.errors import TensorpressError
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.super_weights import KeepsSuperWeights
from tensorpress.objectives.base import predicting
from tensorpress.objectives.images import by, classes_of, shape_of
from tensorpress.planning.artifacts import (
    AdviceArtifact,
    CorpusArtifact,
    DecompositionArtifact,
    ModelArtifact,
)
from tensorpress.planning.leakage import shared_text
from tensorpress.sources.inputs import DigitsCorpus


def layer_sets(spec: LayerSet, layers: int, name: str) -> list[tuple[int, ...]]:
    """The sets of layers that a layer set stands for: one, or with ``each`` one per layer.

    ``TensorpressError`` if the model has too few layers; ``layers`` is their number.
    """
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


def check_positions(at: str, tokens: int, model: ModelArtifact) -> None:
    """Refuse sequences longer than the model's positions; some families have no limit.

    Images have so many tokens and no others.
    """
    limit = model.architecture.size("positions")
    if model.architecture.objective.reads == "images" and tokens != limit:
        raise TensorpressError(
            f"{at}: {tokens} is not allowed for model {model.name!r}; allowed: {limit}, the "
            "patches of an image and the class token"
        )
    if limit and tokens > limit:
        raise TensorpressError(
            f"{at}: {tokens} is not allowed; allowed: up to {limit}, "
            f"{model.architecture.family.key('positions')} of model {model.name!r}"
        )


def check_corpus(at: str, corpus: CorpusArtifact, model: ModelArtifact) -> None:
    """Refuse texts for models of images, images for models of texts, and images of other sizes."""
    spec, reads = corpus.spec, model.architecture.objective.reads
    if spec.holds != reads:
        raise TensorpressError(
            f"{at}: {corpus.name!r}, of {spec.holds}, is not allowed for model {model.name!r}, "
            f"{model.architecture.objective.described}; allowed: a corpus of {reads}"
        )
    if isinstance(spec, DigitsCorpus):
        config = model.architecture.config
        shape, classes = shape_of(config), classes_of(config)
        if shape != spec.shape or classes < spec.classes:
            raise TensorpressError(
                f"{at}: {corpus.name!r} is not allowed for model {model.name!r}, of {by(shape)} "
                f"and {classes} classes; allowed: models of {by(spec.shape)} and {spec.classes} "
                "classes"
            )


def check_window(at: str, window: int, bos: bool, model: ModelArtifact) -> None:
    """Refuse windows that a model has no positions for, or that nothing can be asked of."""
    check_positions(at, window, model)
    model.architecture.objective.check_window(at, window, bos)


def check_trained(at: str, window: int, bos: bool, model: ModelArtifact) -> None:
    """Refuse to train a model that has no losses, or on windows that it has no positions for."""
    predicting(model.architecture.objective, f"{at}: training {model.name!r}")
    check_window(f"{at}.window", window, bos, model)


def check_task(name: str, spec: BaseTask, model: ModelArtifact) -> None:
    """Refuse a task that asks what the model does not answer, or more tokens than it takes."""
    where, objective = f"tasks.{name}", model.architecture.family.objective
    if objective not in spec.objectives:
        raise TensorpressError(
            f"models.{model.name}: task {name!r} (kind {spec.kind}) is not allowed for "
            f"{objective}; allowed: kinds for {objective}: {', '.join(kinds_for(objective))}"
        )
    if spec.follows_stream and not model.architecture.family.knows_stream:
        raise TensorpressError(
            f"models.{model.name}: task {name!r} (kind {spec.kind}) is not allowed for "
            f"{model.architecture.family.model_type}, found by its structure alone; allowed: types "
            "whose family has a file, as llama"
        )
    if spec.follows_objective:
        spec.check_objective(where, model.architecture.objective)
    for field, tokens in spec.positions.items():
        check_positions(f"{where}.{field}", tokens, model)
    if spec.needs_experts and not model.architecture.expert_layers:
        raise TensorpressError(
            f"models.{model.name}: task {name!r} is not allowed; "
            "allowed: tasks for models without experts"
        )
    experts = model.architecture.family.experts
    if spec.needs_experts and experts is not None and experts.in_turn:
        raise TensorpressError(
            f"models.{model.name}: task {name!r} is not allowed for "
            f"{model.architecture.family.model_type}, whose experts are not told what is chosen; "
            "allowed: tasks for models without experts"
        )
    spec.check_architecture(where, model.architecture)


def check_method(name: str, spec: MethodSpec, shape: LayerShape, group: str) -> None:
    """Refuse settings that do not fit the shapes of a group."""
    try:
        spec.check(shape, group)
        if group == "embedding" and spec.needs_moments and not spec.needs_gradients:
            raise TensorpressError(
                "whiten: an embedding has no inputs to weigh; allowed: none, or both, which weighs "
                "its rows by how often they are read"
            )
        if group == "embedding" and spec.needs_advice:
            raise TensorpressError(
                "budget.allocate: an embedding is in no layer; allowed there: uniform"
            )
    except TensorpressError as error:
        raise TensorpressError(f"methods.{name}.{error}") from error


def check_super_weights(name: str, spec: MethodSpec, model: ModelArtifact) -> None:
    """Refuse super weights in layers or modules that the model has not: they protect nothing."""
    if not isinstance(spec, KeepsSuperWeights):
        return
    layers, modules = model.architecture.layers, model.architecture.modules
    for each in spec.super_weights:
        if each.layer >= layers or each.module not in modules:
            raise TensorpressError(
                f"methods.{name}.super_weights: {each.module} of layer {each.layer} is not in "
                f"model {model.name!r}; allowed: layers 0 to {layers - 1}, {', '.join(modules)}"
            )


def check_whole(
    where: str, modules: tuple[str, ...], layers: tuple[int, ...], model: ModelArtifact
) -> None:
    """Refuse parts of a model where a method plans all of it."""
    if "all" not in modules or len(layers) < model.architecture.layers:
        raise TensorpressError(
            f"{where}: a method that is advised plans the whole model; "
            "allowed: modules: [all] on layers: all"
        )


def check_group(
    where: str,
    method_name: str,
    made: DecompositionArtifact,
    chosen: Collection[str],
    present: Collection[str],
) -> None:
    """Refuse a part of a group whose modules share factors."""
    if made.spec.whole_groups and len(chosen) < len(present):
        raise TensorpressError(
            f"{where}.modules: {list(chosen)} is not allowed: method {method_name!r} shares "
            f"factors; allowed: all of {made.group}"
        )


def check_apart(
    where: str, trained: CorpusArtifact, evaluated: Iterable[tuple[str, CorpusArtifact]]
) -> None:
    """Refuse to train on text that is evaluated on: by a task, on a corpus."""
    for task, corpus in evaluated:
        shared = shared_text(corpus, trained)
        if corpus.name == trained.name or corpus.key == trained.key or shared:
            detail = f" (both hold: {shared[:60]!r})" if shared else ""
            raise TensorpressError(
                f"{where}: {trained.name!r} is not allowed: task {task!r} evaluates on text of "
                f"it{detail}; allowed: a corpus that shares nothing with those of the recipe's "
                "tasks"
            )


def check_gradients(settings: Calibration, reader: str) -> None:
    """Refuse a calibration without the gradients that damage is predicted from."""
    if not settings.gradients:
        raise TensorpressError(
            f"calibration.gradients: False is not allowed where {reader}; allowed: true"
        )


def check_floor(where: str, made: AdviceArtifact) -> None:
    """Refuse a least rank that alone takes more than the budget."""
    budget = made.spec.shared_budget
    if budget is None or budget.allocate != "loss":
        return
    shapes = [shape for modules in made.shapes.values() for shape in modules.values()]
    each = sum(shape.slices * (shape.out_features + shape.in_features) for shape in shapes)
    allowed = budget.allowed(sum(shape.numel for shape in shapes))
    if budget.floor * each > allowed:
        raise TensorpressError(
            f"{where}.budget.floor: {budget.floor} takes more than budget.saved: {budget.saved} "
            f"leaves; allowed: 0 to {allowed // each}"
        )


def check_modules(where: str, names: tuple[str, ...], model: ModelArtifact) -> None:
    """Refuse module names that the model has nothing for."""
    present = model.architecture.modules
    offered = {"all", *present, *(group_of(module) for module in present)}
    for name in names:
        if name not in offered:
            raise TensorpressError(
                f"{where}.modules: {name!r} is not in model {model.name!r}; "
                f"allowed: all, {', '.join(present)}"
            )
