"""What an evaluation task is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from tensorpress.errors import TensorpressError


@dataclass(frozen=True)
class EvaluationJob:
    """Folders and texts of one (run, task); ``dense_directory`` only where the task compares.

    ``joined`` says how the documents of the corpus in a role became one text.
    """

    run_directory: Path
    dense_directory: Path | None
    corpora: dict[str, Path]
    device: torch.device
    joined: dict[str, str] = field(default_factory=dict)
    moments_directory: Path | None = None

    def text(self, role: str) -> str:
        """Text of the corpus in a role of the task."""
        return self.corpora[role].read_text(encoding="utf-8")

    @property
    def moments(self) -> Path:
        """Folder of the model's calibration."""
        if self.moments_directory is None:
            raise TensorpressError(f"{self.run_directory}: no calibration to read")
        return self.moments_directory

    @property
    def dense(self) -> Path:
        """Folder of the uncompressed model."""
        if self.dense_directory is None:
            raise TensorpressError(f"{self.run_directory}: no dense model to compare with")
        return self.dense_directory
