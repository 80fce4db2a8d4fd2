"""Rule report: one notebook, executed over the results tables, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorpress.config.reports import Report
from tensorpress.report.queries import render


def run(
    spec: Report,
    notebook: Path,
    queries: Sequence[Path],
    tables: Mapping[str, Path],
    target: Path,
) -> None:
    """Render the page; ``tables`` by the name that queries know, which lie in one folder."""
    (folder,) = {query.parent for query in queries}
    files = {**tables, "queries": folder}
    parameters = {name: str(path.resolve()) for name, path in files.items()}
    render(notebook, {"model": spec.model, "task": spec.task, **parameters}, target)
