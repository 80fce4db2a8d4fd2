"""A checkpoint and a compressed one, compared on one text."""

from __future__ import annotations

from pathlib import Path

from support.stages import compress
from support.workspace import tiny_text
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.running.oom import CPU


def job(dense: Path, compressed: Path, folder: Path) -> EvaluationJob:
    text = folder / "text.txt"
    text.write_text(tiny_text(), encoding="utf-8")
    return EvaluationJob(compressed, dense, {"text": text}, CPU)


def compressed(model: Path, method: str, settings: dict, group: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    compress(model, method, settings, group, folder)
    return folder / "out"
