"""``params.yaml``: what may stand in it, every default, and errors that name the place.

Torch-free. What needs a model's shapes (ranks, layers, missing modules) is checked while planning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from tensorpress.architectures.layers import GROUPS, MODULES
from tensorpress.config.base_task import BaseTask
from tensorpress.config.recovery import Factors, Recovery
from tensorpress.config.reports import NOTEBOOKS, Report
from tensorpress.config.tasks import registry as tasks
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import check_no_token
from tensorpress.errors.refusals import Place, explain, line, listed, truth_for_number
from tensorpress.files import paths
from tensorpress.files.storage import ComputeDtype, Dtype
from tensorpress.files.yamlfile import read
from tensorpress.keying.section import Section
from tensorpress.methods import registry as methods
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.rounding import Rounding
from tensorpress.sources.confinement import check_inside
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.inputs import (
    Corpus,
    DerivedModel,
    EmbeddedModel,
    Model,
    Name,
    StudyModel,
)
from tensorpress.transforms.base import Transform

if TYPE_CHECKING:
    AnyMethod = MethodSpec
    AnyTask = BaseTask
else:  # unions of what is registered
    AnyMethod = Annotated[
        Union[tuple(methods.spec_class(name) for name in methods.METHODS)],  # noqa: UP007
        Field(discriminator="method"),
    ]
    AnyTask = Annotated[
        Union[tuple(tasks.spec_class(kind) for kind in tasks.TASKS)],  # noqa: UP007
        Field(discriminator="kind"),
    ]


BASELINE = "baseline"
"""Recipe name of the uncompressed model; every model has it."""
NO_LAYERS = "none"
"""Layer set of the uncompressed model."""
CORPUS_FIELD = {"text": "corpus"}
"""Role of a task's corpus -> the field that names it, where they are not called the same."""


class Storage(Section):
    """How weights and factors are stored; decides the bits of a value."""

    dtype: Dtype = "bfloat16"


class Compute(Section):
    """How models run while they are calibrated, recovered and evaluated.

    Moments, losses and metrics are summed in float32 or float64 all the same.
    """

    dtype: ComputeDtype = Field(
        "float32",
        description="of weights and activations; auto: bfloat16 where the device does it fast",
    )


class Calibration(Section):
    """Text over which second moments of the modules' inputs are accumulated."""

    corpus: Name
    tokens: int = Field(65536, ge=1)
    window: int = Field(256, ge=2)
    bos: bool = Field(False, description="each window begins with the BOS token")
    batch: int = Field(16, ge=1)
    gradients: bool = Field(
        True, description="squared gradients of module outputs too: what prediction and advice need"
    )


class MiddleLayers(Section):
    """``middle``: from layer L//2 to the right, so many layers."""

    middle: int = Field(ge=1)


class MiddleOutLayers(Section):
    """``middle_out``: from layer L//2, right for a quarter of the layers, then alternating."""

    middle_out: int = Field(ge=1)


ListedLayers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


def _layer_set_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    if isinstance(value, list | tuple):
        return "<list>"
    forms = {("middle",): "<middle>", ("middle_out",): "<middle_out>"}
    # a section where params are written out again
    return forms.get(tuple(dict(value))) if isinstance(value, dict | Section) else None


LayerSet = Annotated[
    Annotated[Literal["all", "each"], Tag("<name>")]
    | Annotated[ListedLayers, Tag("<list>")]
    | Annotated[MiddleLayers, Tag("<middle>")]
    | Annotated[MiddleOutLayers, Tag("<middle_out>")],
    Discriminator(
        _layer_set_form,
        custom_error_type="layer_set",
        custom_error_message="allowed: all, each, a list of layers, middle: K, middle_out: K",
    ),
]


class Step(Section):
    """One method on some modules of the recipe's layers."""

    modules: tuple[str, ...] = Field(min_length=1)
    method: Name


class Recipe(Section):
    """Methods applied together; one compressed model per model and layer set.

    ``rounding`` is of the factors; ``recover`` then trains them, or adapters beside them.
    """

    models: tuple[Name, ...] = Field(min_length=1)
    steps: tuple[Step, ...] = Field(min_length=1)
    layers: tuple[Name, ...] = Field(min_length=1, description="names of layer_sets")
    tasks: tuple[Name, ...] = Field(min_length=1)
    compared_with: Name | None = Field(
        None, description="the recipe that this one varies: by recovery, or by the layout of heads"
    )
    recover: Recovery | None = None
    rounding: Rounding | None = None

    @property
    def last_rounding(self) -> Rounding | None:
        """Of the factors as they are stored in the end."""
        trained = self.recover.rounding if isinstance(self.recover, Factors) else None
        return trained or self.rounding


class Params(Section):
    """The whole of ``params.yaml``."""

    storage: Storage = Storage()
    compute: Compute = Compute()
    external: tuple[str, ...] = Field(
        (), description="folders outside of the project that paths here may lead into"
    )
    models: dict[Name, Annotated[StudyModel, Field(discriminator="source")]] = Field(min_length=1)
    corpora: dict[Name, Annotated[Corpus, Field(discriminator="source")]]
    calibration: Calibration
    methods: dict[Name, AnyMethod]
    layer_sets: dict[Name, LayerSet]
    recipes: dict[Name, Recipe]
    tasks: dict[Name, AnyTask]
    reports: dict[Name, Report]

    @model_validator(mode="after")
    def _reserved(self) -> Self:
        for section, name in (("recipes", BASELINE), ("layer_sets", NO_LAYERS)):
            if name in getattr(self, section):
                meant = "the uncompressed model in every table"
                raise TensorpressError(line(section, name, f"any other name; this is {meant}"))
        return self

    @model_validator(mode="after")
    def _rounded_once(self) -> Self:
        for name, recipe in self.recipes.items():
            trained = recipe.recover
            if recipe.rounding and isinstance(trained, Factors) and trained.rounding:
                at, value = f"recipes.{name}.recover.rounding", "one beside the recipe's rounding"
                raise TensorpressError(line(at, value, "one of the two"))
        return self

    @model_validator(mode="after")
    def _once(self) -> Self:
        """What stands twice would count as two runs that agree, and as certain."""
        for path, entries in self._lists():
            if len(set(entries)) < len(entries):
                raise TensorpressError(line(path, list(entries), "each of them once"))
        return self

    @model_validator(mode="after")
    def _references(self) -> Self:
        for path, name, section in self._names():
            known = getattr(self, section)
            if name not in known:
                raise TensorpressError(line(path, name, f"a name of {section}: {listed(known)}"))
        for name, model in self.models.items():
            if isinstance(model, EmbeddedModel):
                spec_of(f"models.{name}", model.name, model.width)
            if isinstance(model, DerivedModel):
                self.source_of(name)
                if name in self.recipes:
                    allowed = "a name that no recipe has: in tables it is a recipe's"
                    raise TensorpressError(line("models", name, allowed))
        for name, report in self.reports.items():
            if isinstance(model := self.models[report.model], DerivedModel):
                allowed = f"{model.of}, whose pages have its runs"
                raise TensorpressError(line(f"reports.{name}.model", report.model, allowed))
            kind = NOTEBOOKS[report.notebook].kind
            if self.tasks[report.task].kind != kind:
                shown = [task for task, spec in self.tasks.items() if spec.kind == kind]
                allowed = f"a task of kind {kind}: {listed(shown) or 'none yet'}"
                raise TensorpressError(line(f"reports.{name}.task", report.task, allowed))
        known_modules = ("all", *GROUPS, *MODULES)
        for name, recipe in self.recipes.items():
            if recipe.compared_with == name:
                others = [other for other in self.recipes if other != name]
                raise TensorpressError(
                    line(f"recipes.{name}.compared_with", name, f"another recipe: {listed(others)}")
                )
            for index, step in enumerate(recipe.steps):
                for module in step.modules:
                    if module not in known_modules:
                        path = f"recipes.{name}.steps.{index}.modules"
                        raise TensorpressError(line(path, module, listed(known_modules)))
        return self

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for where, path in self._paths():
            check_inside(path, where, self.external)
        return self

    def source_of(self, name: str) -> tuple[str, Model]:
        """Name and settings of the model that is fetched for a model."""
        model = self.models[name]
        if not isinstance(model, DerivedModel):
            return name, model
        source = self.models[model.of]
        if isinstance(source, DerivedModel):
            own = [each for each, m in self.models.items() if not isinstance(m, DerivedModel)]
            allowed = f"a model that is not derived: {listed(own)}"
            raise TensorpressError(line(f"models.{name}.of", model.of, allowed))
        return model.of, source

    def transforms_of(self, name: str) -> tuple[Transform, ...]:
        """What is made of the fetched model, one after the other."""
        model = self.models[name]
        before = self.models[model.of].transform if isinstance(model, DerivedModel) else ()
        return (*before, *model.transform)

    def _paths(self) -> list[tuple[str, str]]:
        """Every path of a file or folder, with its place."""
        sections: dict[str, dict[str, Any]] = {"models": self.models, "corpora": self.corpora}
        found = [
            (f"{section}.{name}.path", each.path)
            for section, entries in sections.items()
            for name, each in entries.items()
            if getattr(each, "path", None) is not None
        ]
        for name, task in self.tasks.items():
            found += [(f"tasks.{name}.{field}", path) for field, path in task.files.items()]
        return found

    def _lists(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Every list that runs are made of, with its place."""
        for name, model in self.models.items():
            yield f"models.{name}.baseline_tasks", model.baseline_tasks
        for name, recipe in self.recipes.items():
            for field in ("models", "layers", "tasks"):
                yield f"recipes.{name}.{field}", getattr(recipe, field)
            if recipe.recover is not None:
                yield f"recipes.{name}.recover.seeds", recipe.recover.seeds

    def _names(self) -> list[tuple[str, str, str]]:
        """Every reference by name: (path, name, section that must hold it)."""
        found = [("calibration.corpus", self.calibration.corpus, "corpora")]
        for name, recipe in self.recipes.items():
            at = f"recipes.{name}"
            found += [(f"{at}.models", model, "models") for model in recipe.models]
            found += [(f"{at}.layers", layers, "layer_sets") for layers in recipe.layers]
            found += [(f"{at}.tasks", task, "tasks") for task in recipe.tasks]
            if recipe.compared_with is not None:
                found.append((f"{at}.compared_with", recipe.compared_with, "recipes"))
            if recipe.recover is not None and recipe.recover.corpus is not None:
                found.append((f"{at}.recover.corpus", recipe.recover.corpus, "corpora"))
            for index, step in enumerate(recipe.steps):
                found.append((f"{at}.steps.{index}.method", step.method, "methods"))
        for name, task in self.tasks.items():
            fields = ((CORPUS_FIELD.get(role, role), c) for role, c in task.corpora.items())
            found += [(f"tasks.{name}.{field}", c, "corpora") for field, c in fields]
        for name, model in self.models.items():
            found += [(f"models.{name}.baseline_tasks", t, "tasks") for t in model.baseline_tasks]
            if isinstance(model, DerivedModel):
                found.append((f"models.{name}.of", model.of, "models"))
        for name, report in self.reports.items():
            found.append((f"reports.{name}.model", report.model, "models"))
            found.append((f"reports.{name}.task", report.task, "tasks"))
        return found


def load(path: Path) -> Params:
    """Read and check a params file; ``TensorpressError`` is one line with path, value, allowed."""
    written = read(path)
    return parse(written.values, str(path), written.texts)


def merged(config: Mapping[str, Any], files: Sequence[Path | str]) -> Params:
    """Params as Snakemake merged them from ``files``, the last over the others, and ``--config``.

    What was written shows only in the files, so that they are read again.
    """
    texts: dict[Place, str] = {}
    names = [os.path.relpath(file) for file in files]
    for name in names:
        texts |= read(Path(name)).texts
    return parse(config, names[-1] if names else str(paths.PARAMS), texts)


def parse(raw: Any, where: str = "params", texts: Mapping[Place, str] | None = None) -> Params:
    """Check params already read; ``where`` begins every error.

    ``texts``: what stands in the file at values that YAML made no text of. ``TensorpressError``
    names the first value that is not allowed.
    """
    try:
        check_no_token(raw)
        checked = Params.model_validate(raw)
        if refusal := truth_for_number(raw, checked.model_dump(by_alias=True), texts or {}):
            raise TensorpressError(refusal)
        return checked
    except ValidationError as error:
        said = explain(error, raw, texts or {}, Params.model_json_schema())
        raise TensorpressError(f"{where}: {said}") from error
    except TensorpressError as error:
        raise TensorpressError(f"{where}: {error}") from error
