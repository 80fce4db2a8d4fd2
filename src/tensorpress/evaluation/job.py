"""What an evaluation task is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU, warn, with_fallback
from tensorpress.running.placement import place

Result = TypeVar("Result")


@dataclass(frozen=True)
class EvaluationJob:
    """Folders and texts of one (run, task); ``dense_directory`` only where the task compares.

    ``joined`` says how the documents of the corpus in a role became one text. Models run in
    ``dtype``; ``notes`` are what was done otherwise than asked for lack of memory.
    """

    run_directory: Path
    dense_directory: Path | None
    corpora: dict[str, Path]
    device: torch.device
    joined: dict[str, str] = field(default_factory=dict)
    moments_directory: Path | None = None
    dtype: str = "float32"
    notes: list[str] = field(default_factory=list)

    def model(self, directory: Path) -> PreTrainedModel:
        """A model in the CPU's memory, for ``with_fallback``."""
        return load_model(directory, CPU, getattr(torch, self.dtype))

    def with_fallback(
        self,
        what: str,
        model: PreTrainedModel,
        work: Callable[[PreTrainedModel, torch.device, int], Result],
        batch: int = 1,
        spill: bool = True,
    ) -> Result:
        """``work(model, device, batch)`` on the job's device, with less where memory runs out.

        ``spill`` as in ``placement.place``: not where ``work`` reads weights.
        """

        return with_fallback(
            what,
            lambda device, size: work(model, device, size),
            self.device,
            batch,
            lambda device: place(model, device, spill),
            self.say,
        )

    def say(self, line: str) -> None:
        """Warn of what is done otherwise than asked for, and note it."""
        warn(line)
        self.notes.append(line)

    def noted(self, rows: Sequence[EvalRow]) -> list[EvalRow]:
        """The rows, with the notes in their versions."""
        said = dict.fromkeys(self.notes)
        return [replace(r, version="; ".join(filter(None, (r.version, *said)))) for r in rows]

    def text(self, role: str) -> str:
        """Text of the corpus in a role of the task."""
        return self.corpora[role].read_text(encoding="utf-8")

    @property
    def moments(self) -> Path:
        """Folder of the model's calibration.

        ``TensorpressError`` if the job was given none.
        """
        if self.moments_directory is None:
            raise TensorpressError(f"{self.run_directory}: no calibration to read")
        return self.moments_directory

    @property
    def dense(self) -> Path:
        """Folder of the uncompressed model.

        ``TensorpressError`` if the job was given none.
        """
        if self.dense_directory is None:
            raise TensorpressError(f"{self.run_directory}: no dense model to compare with")
        return self.dense_directory
