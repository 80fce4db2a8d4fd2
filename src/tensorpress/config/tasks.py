"""Evaluation tasks as written in ``params.yaml``: one settings class per kind.

Torch-free. ``entry`` names the module whose ``evaluate`` does the work; a new kind is one class
here, listed in ``TaskSpec``, and one such module.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.published import SuperWeight
from tensorpress.config.base_task import BaseTask, WeightsTask, WindowsTask
from tensorpress.files.storage import ComputeDtype
from tensorpress.objectives.base import Objective
from tensorpress.objectives.registry import OBJECTIVES
from tensorpress.sources.hub_datasets import HubDataset
from tensorpress.sources.local_tasks import STANDARD, question_items, standard_items


class Perplexity(WindowsTask):
    """Perplexity (of a masked model pseudo-perplexity) and bits per byte on windows of a corpus."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.perplexity"
    keeps_logits: ClassVar[bool] = False
    objectives: ClassVar[Collection[str]] = OBJECTIVES
    follows_objective: ClassVar[bool] = True

    kind: Literal["perplexity"]
    max_windows: int | None = Field(None, ge=1, description="windows read; null: all of them")
    batch: int = Field(16, ge=1, description="windows of one forward pass")
    characters: int | None = Field(None, ge=1, description="leading characters read; null: all")
    bos: bool = Field(False, description="each window begins with the BOS token")
    dtype: ComputeDtype | None = Field(
        None, description="of weights and activations; null: compute.dtype"
    )

    def runs_in(self, compute: str) -> str:
        return self.dtype or compute

    def check_objective(self, where: str, objective: Objective) -> None:
        objective.check_window(f"{where}.window", self.window, self.bos)


class Cloze(BaseTask):
    """Multiple choice: which of four passages goes on from the context (lm-eval)."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.cloze"

    kind: Literal["cloze"]
    corpus: str
    items: int = Field(200, ge=4)
    context_words: int = Field(40, ge=1)
    answer_words: int = Field(12, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}


class LastWord(BaseTask):
    """The last word of a passage, by greedy decoding and by probability (lm-eval)."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.last_word"

    kind: Literal["last_word"]
    corpus: str
    items: int = Field(200, ge=4)
    context_words: int = Field(60, ge=2)
    seed: int = Field(0, ge=0)

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}


class ZeroShot(BaseTask):
    """A standard multiple-choice task as lm-eval has it, from a local file or from the hub."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.zero_shot"

    kind: Literal["zero_shot"]
    task: Literal[
        "arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande"
    ]
    path: str | None = Field(None, description="JSON lines; null: dataset cache or hub")
    items: int | None = Field(None, ge=2, description="leading items; null: all")
    batch: int = Field(16, ge=1, description="requests of one forward pass")

    @property
    def files(self) -> dict[str, str]:
        return {"path": self.path} if self.path else {}

    @property
    def dataset(self) -> HubDataset | None:
        return None if self.path else STANDARD[self.task].dataset

    def check_files(self, where: str) -> None:
        if self.path:
            standard_items(self.task, Path(self.path), 1, f"{where}.path")


class HotpotQA(BaseTask):
    """HotpotQA without its paragraphs, as TensorLLM measures it: greedy answers, closed book."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.hotpotqa"

    kind: Literal["hotpotqa"]
    path: str = Field(description="JSON lines with question and answer")
    items: int | None = Field(None, ge=2, description="leading questions; null: all")
    batch: int = Field(16, ge=1, description="questions answered at once")

    @property
    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def check_files(self, where: str) -> None:
        question_items(Path(self.path), 1, f"{where}.path")


class Generation(BaseTask):
    """Greedy continuations of five fixed prompts."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.generation"

    kind: Literal["generation"]
    new_tokens: int = Field(40, ge=1)

    @property
    def positions(self) -> dict[str, int]:
        return {"new_tokens": self.new_tokens}


class Speed(BaseTask):
    """Tokens per second and peak memory, dense against compressed in the same job."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.speed"
    needs_dense: ClassVar[bool] = True
    measures_time: ClassVar[bool] = True

    kind: Literal["speed"]
    batch: int = Field(4, ge=1)
    prompt_tokens: int = Field(256, ge=2)
    new_tokens: int = Field(16, ge=1)
    repeats: int = Field(5, ge=1, description="rounds of dense then compressed; medians count")

    @property
    def positions(self) -> dict[str, int]:
        return {"prompt_tokens + new_tokens": self.prompt_tokens + self.new_tokens}


class Ngram(WeightsTask):
    """Kneser-Ney n-gram over the model's own tokens: what a model must beat."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.ngram"

    kind: Literal["ngram"]
    training: str
    corpus: str
    order: int = Field(5, ge=1, le=8)
    window: int = Field(256, ge=2)

    @property
    def corpora(self) -> dict[str, str]:
        return {"training": self.training, "text": self.corpus}


class ExpertBalance(WindowsTask):
    """Effective number of experts per layer: exponential of the assignment entropy."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.expert_balance"
    needs_experts: ClassVar[bool] = True

    kind: Literal["expert_balance"]
    max_windows: int = Field(64, ge=1)


class Geometry(WindowsTask):
    """Where compression moves each layer's activations: cosine, angle, norms, differences."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.geometry"
    keeps_logits: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = True

    kind: Literal["geometry"]
    max_windows: int = Field(
        16, ge=1, description="each puts 20 * layers * hidden * window bytes on disk for a while"
    )
    batch: int = Field(4, ge=1, description="windows of one forward pass")


class MoeDiagnostics(WindowsTask):
    """Subspaces, drift and routing of a mixture's experts, before and after compression."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.moe"
    keeps_logits: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = True
    needs_experts: ClassVar[bool] = True

    kind: Literal["moe"]
    max_windows: int = Field(32, ge=1)
    batch: int = Field(8, ge=1, description="windows of one forward pass")


class SuperWeightSearch(BaseTask):
    """How super weights are looked for: on a prompt, one more with every forward pass."""

    prompt: str = Field("Apple Inc. is a worldwide tech company.", min_length=1)
    threshold: float = Field(50, gt=0, description="what |input| and |output| of ffn.down exceed")
    iterations: int = Field(16, ge=1, description="most super weights, each a forward pass")


class SuperWeights(SuperWeightSearch):
    """Super weights by the iterative finder, beside the published ones of models of its sizes."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.super_weights"

    kind: Literal["super_weights"]


class Restoration(SuperWeightSearch):
    """Errors of a run's factors at super weights, at the next 64 and at 64 random entries."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.restoration"
    needs_dense: ClassVar[bool] = True

    kind: Literal["restoration"]
    super_weights: tuple[SuperWeight, ...] | None = Field(
        None, description="null: those that the finder sees in the dense model"
    )
    seed: int = Field(0, ge=0, description="of the random entries")


class Heterogeneity(WeightsTask):
    """Spectra, subspace overlaps and sharing penalties of an uncompressed model's weights."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.heterogeneity"
    objectives: ClassVar[Collection[str]] = OBJECTIVES

    kind: Literal["heterogeneity"]
    share: float = Field(
        0.25, gt=0, lt=1, description="subspaces compared: share of the smaller side of a matrix"
    )
    saved: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5,), min_length=1, description="share of the values to save, for each sharing penalty"
    )


class Prediction(WeightsTask):
    """The loss that moments and gradients predict for a run, without evaluating it."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.prediction"
    objectives: ClassVar[Collection[str]] = OBJECTIVES
    needs_dense: ClassVar[bool] = True
    needs_moments: ClassVar[bool] = True

    kind: Literal["prediction"]


TaskSpec = Annotated[
    Perplexity
    | Cloze
    | LastWord
    | Speed
    | Ngram
    | ExpertBalance
    | Geometry
    | MoeDiagnostics
    | SuperWeights
    | Restoration
    | Heterogeneity
    | ZeroShot
    | HotpotQA
    | Generation
    | Prediction,
    Field(discriminator="kind"),
]
