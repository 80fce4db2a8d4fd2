"""Two checkpoints compared on one text, and the rows that come of it."""

from __future__ import annotations

from pathlib import Path

from support.stages import compress
from support.workspace import tiny_text
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.oom import CPU


def job(dense: Path, compressed: Path, folder: Path) -> EvaluationJob:
    text = folder / "text.txt"
    text.write_text(tiny_text(), encoding="utf-8")
    return EvaluationJob(compressed, dense, {"text": text}, CPU)


def table(rows: list) -> dict[tuple[int, str, str], float]:
    found = {(row.layer, row.subject, row.metric): row.value for row in rows}
    assert len(found) == len(rows)
    return found


def compressed(model: Path, method: str, settings: dict, group: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    compress(model, method, settings, group, folder)
    return folder / "out"
