"""What the pipeline makes: one type per kind of artifact, each with its identity. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import ModuleShape
from tensorpress.config.base_task import BaseTask
from tensorpress.config.params import Calibration
from tensorpress.config.recovery import Recovery
from tensorpress.files import paths
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.rounding import Rounding
from tensorpress.sources.inputs import Corpus, Model
from tensorpress.transforms.base import Transform


@dataclass(frozen=True)
class CorpusArtifact:
    """Text of one corpus."""

    name: str
    spec: Corpus
    key: str

    @property
    def id(self) -> str:
        return f"{self.name}-{self.key}"


@dataclass(frozen=True)
class ModelArtifact:
    """A fetched, verified checkpoint, or one made of it (``TransformedArtifact``)."""

    name: str
    spec: Model
    key: str
    is_quantised: bool
    """Whether its source holds codes, which the fetch turns into plain weights."""
    architecture: Architecture = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.name}-{self.key}"

    @property
    def checkpoint(self) -> Path:
        return paths.model(self.id)

    @property
    def lineage(self) -> tuple[ModelArtifact, ...]:
        """The fetched model, what was made of it, and so on up to this one."""
        return (self,)

    @property
    def derived_by(self) -> tuple[Transform, ...]:
        """Transforms that made it of another model of the study, which it is compared with."""
        return ()

    @property
    def compared_model(self) -> str:
        """Name of the model that it is compared with."""
        return self.lineage[0].name


@dataclass(frozen=True)
class TransformedArtifact(ModelArtifact):
    """A model made of another one, with a config of its own."""

    source: ModelArtifact
    transform: Transform
    stream: StreamArtifact | None
    """What the transform goes by, if it reads it."""

    @property
    def moments(self) -> list[Path]:
        """The file of what it goes by."""
        return [paths.stream(self.stream.id)] if self.stream else []

    @property
    def checkpoint(self) -> Path:
        return paths.transformed(self.id)

    @property
    def lineage(self) -> tuple[ModelArtifact, ...]:
        return (*self.source.lineage, self)

    @property
    def derived_by(self) -> tuple[Transform, ...]:
        if self.name == self.compared_model:  # it stands in place of the fetched one
            return ()
        before = self.source.derived_by if self.source.name == self.name else ()
        return (*before, self.transform)


@dataclass(frozen=True)
class PassArtifact:
    """What was gathered while a text passed through a model."""

    model: ModelArtifact
    corpus: CorpusArtifact
    settings: Calibration
    dtype: str
    """In which the model runs."""
    key: str

    @property
    def id(self) -> str:
        return f"{self.model.name}-{self.key}"


@dataclass(frozen=True)
class StreamArtifact(PassArtifact):
    """Second moments of what a model's norms hand on, without their scales."""


@dataclass(frozen=True)
class CalibrationArtifact(PassArtifact):
    """Second moments of a model's module inputs."""


@dataclass(frozen=True)
class OptionsArtifact:
    """What may be chosen for every module of a model, whatever the budget; one job a layer."""

    calibration: CalibrationArtifact
    spec: MethodSpec
    """A method that asks for it, of which ``asked`` alone counts."""
    dtype: str
    key: str

    @property
    def id(self) -> str:
        return f"{self.calibration.model.name}-{self.key}"

    def job_name(self, layer: int) -> str:
        """What the job of a layer is called."""
        return f"{self.id}-{layer:03d}"


@dataclass(frozen=True)
class Scope:
    """What shares a budget: modules, where layers have them, of some layers."""

    modules: tuple[str, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class AdviceArtifact:
    """Pre-flight choices for the modules that share the budget of a method."""

    options: OptionsArtifact
    spec: MethodSpec
    scope: Scope
    key: str

    @property
    def id(self) -> str:
        return f"{self.options.calibration.model.name}-{self.key}"

    @property
    def option_files(self) -> list[Path]:
        """What may be chosen in each layer."""
        return [paths.options(self.options.id, layer) for layer in self.scope.layers]

    @property
    def shapes(self) -> dict[int, dict[str, ModuleShape]]:
        """Shapes of the modules that share the budget, by layer."""
        architecture = self.options.calibration.model.architecture
        return {
            layer: {
                module: shape
                for module, shape in architecture.shape(layer).modules.items()
                if module in self.scope.modules
            }
            for layer in self.scope.layers
        }


@dataclass(frozen=True)
class DecompositionArtifact:
    """Factors of one module group of every layer that a recipe wants; one job a layer."""

    model: ModelArtifact
    method_name: str
    spec: MethodSpec
    group: str
    calibration: CalibrationArtifact | None
    advised: AdviceArtifact | None
    key: str

    @property
    def id(self) -> str:
        return f"{self.model.name}-{self.method_name}-{self.group}-{self.key}"

    @property
    def advice(self) -> list[Path]:
        """The advice that completes the method's settings, if it takes any."""
        return [paths.advice(self.advised.id)] if self.advised else []

    def placed(self, layer: int, modules: tuple[str, ...]) -> FactorPlacement:
        """Some modules of a layer with the factors of this decomposition."""
        factors, rows = paths.factors(self.id, layer), paths.decomposition_rows(self.id, layer)
        return FactorPlacement(layer, modules, self, factors, rows)

    @property
    def moments(self) -> list[Path]:
        """The calibration folder that the method reads, if it reads one."""
        return [paths.calibration(self.calibration.id)] if self.calibration else []


@dataclass(frozen=True)
class FactorPlacement:
    """Which modules of a layer take their weights from a decomposition, and where that lies."""

    layer: int
    modules: tuple[str, ...]
    decomposition: DecompositionArtifact
    factors: Path
    rows: Path
    """Errors of the factors."""

    @property
    def job_name(self) -> str:
        """What the job that makes the factors is called: a job makes those of one layer."""
        return f"{self.decomposition.id}-{self.layer:03d}"


@dataclass(frozen=True)
class CheckpointArtifact:
    """A compressed checkpoint: a model with some modules replaced by factors."""

    model: ModelArtifact
    placements: tuple[FactorPlacement, ...] = field(repr=False)
    dtype: str
    label: str
    key: str
    rounding: Rounding | None = None

    @property
    def id(self) -> str:
        return f"{self.model.name}-{self.label}-{self.key}"

    @property
    def checkpoint(self) -> Path:
        return paths.assembled(self.id)

    @property
    def storage(self) -> Path:
        return paths.storage_rows(self.id)

    @property
    def assembled(self) -> CheckpointArtifact:
        return self


@dataclass(frozen=True)
class RecoveryArtifact:
    """A compressed checkpoint that was trained on a text: another one to evaluate."""

    assembled: CheckpointArtifact
    spec: Recovery
    seed: int
    corpus: CorpusArtifact
    dtype: str
    """In which the model is trained."""
    key: str

    @property
    def id(self) -> str:
        return f"{self.model.name}-{self.label}-{self.key}"

    @property
    def model(self) -> ModelArtifact:
        return self.assembled.model

    @property
    def label(self) -> str:
        return f"{self.assembled.label}-{self.spec.train}-s{self.seed}"

    @property
    def checkpoint(self) -> Path:
        return paths.recovery(self.id)

    @property
    def dense_checkpoint(self) -> list[Path]:
        """The model that the training learns from, if it does."""
        return [self.model.checkpoint] if self.spec.distil else []

    @property
    def storage(self) -> Path:
        return paths.recovery_rows(self.id)


AnyCheckpoint = CheckpointArtifact | RecoveryArtifact


@dataclass(frozen=True)
class EvaluationArtifact:
    """Metrics of one task on one run."""

    run: AnyCheckpoint
    dense: CheckpointArtifact | None
    task_name: str
    spec: BaseTask
    corpora: dict[str, CorpusArtifact] = field(repr=False)
    calibration: CalibrationArtifact | None
    dtype: str
    """In which models run."""
    key: str

    @property
    def id(self) -> str:
        return f"{self.run.model.name}-{self.run.label}-{self.task_name}-{self.key}"

    @property
    def dense_checkpoint(self) -> list[Path]:
        """The uncompressed checkpoint that the task compares with, if it does."""
        return [self.dense.checkpoint] if self.dense else []

    @property
    def moments(self) -> list[Path]:
        """The calibration that the task reads, if it reads one."""
        return [paths.calibration(self.calibration.id)] if self.calibration else []

    @property
    def texts(self) -> list[Path]:
        """The corpora that the task reads."""
        return [paths.corpus(corpus.id) for corpus in self.corpora.values()]


@dataclass(frozen=True)
class RecipeRun:
    """A recipe on one model and layer set; several may share one run."""

    recipe: str
    compared_with: str | None
    """Another recipe that this one varies."""
    layer_set: str
    layers: tuple[int, ...]
    run: AnyCheckpoint
    seed: int | None
    """Where chance enters: in recovery."""
    evaluations: tuple[EvaluationArtifact, ...] = field(repr=False)
