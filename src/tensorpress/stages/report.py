"""Rule report: one notebook, executed over the results tables, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorpress import paths
from tensorpress.params import Report
from tensorpress.reporting import render


def run(spec: Report, notebook: Path, tables: Mapping[str, Path], target: Path) -> None:
    """Render the page; ``tables`` by the name that queries know."""
    files = {**tables, "queries": paths.queries()}
    parameters = {name: str(path.resolve()) for name, path in files.items()}
    render(notebook, {"model": spec.model, "task": spec.task, **parameters}, target)
