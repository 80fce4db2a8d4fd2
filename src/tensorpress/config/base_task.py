"""What every kind of task has: facts that planning goes by, and what it may refuse. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tensorpress.architectures.architecture import Architecture
from tensorpress.keying.section import Section
from tensorpress.objectives.base import Objective
from tensorpress.sources.hub_datasets import HubDataset


class BaseTask(Section):
    """Fields and facts that every kind of task has."""

    if TYPE_CHECKING:
        kind: str

    entry: ClassVar[str]
    """The module whose ``evaluate`` does the work."""
    needs_dense: ClassVar[bool] = False
    """Whether the uncompressed model is measured beside the compressed one, in the same job."""
    measures_time: ClassVar[bool] = False
    """Whether other jobs beside it would falsify what is measured."""
    needs_moments: ClassVar[bool] = False
    """Whether the model's calibration is read, with gradients."""
    needs_experts: ClassVar[bool] = False
    """Whether only mixture-of-experts models can run it."""
    follows_stream: ClassVar[bool] = False
    """Whether it asks what attention and FFN add to the residual stream."""
    keeps_logits: ClassVar[bool] = True
    """Whether the logits of a whole batch exist together."""
    objectives: ClassVar[Collection[str]] = ("causal_lm",)
    """What models may be asked that can run it."""
    follows_objective: ClassVar[bool] = False
    """Whether it asks by the model's objective, whose code then is part of the key."""

    @property
    def corpora(self) -> dict[str, str]:
        """Role -> name of each corpus that the task reads."""
        return {}

    @property
    def files(self) -> dict[str, str]:
        """Field -> path of each local file that the task reads; its content is part of the key."""
        return {}

    @property
    def dataset(self) -> HubDataset | None:
        """The hub dataset that the task reads."""
        return None

    @property
    def positions(self) -> dict[str, int]:
        """Field -> tokens that a model is given at a time, as far as the settings tell."""
        return {}

    def check_files(self, where: str) -> None:
        """Refuse files without the columns that the task reads; ``where`` begins the error."""

    def check_objective(self, where: str, objective: Objective) -> None:
        """Refuse settings that the objective cannot ask with; ``where`` begins the error."""

    def check_architecture(self, where: str, architecture: Architecture) -> None:
        """Refuse settings that do not fit the model's shapes; ``where`` begins the error."""

    def runs_in(self, compute: str) -> str:
        """The dtype in which models run, ``compute`` being that of the study."""
        return compute


class WeightsTask(BaseTask):
    """A task that reads weights and runs no model, so that ``compute.dtype`` does not touch it."""

    def runs_in(self, compute: str) -> str:
        return "float32"


class WindowsTask(BaseTask):
    """A task that runs models on windows of a corpus."""

    corpus: str
    window: int = Field(256, ge=2, description="tokens of one window")

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}

    @property
    def positions(self) -> dict[str, int]:
        return {"window": self.window}
