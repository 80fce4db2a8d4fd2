"""The DVC side of the contract: key files, attic, and the small files that DVC reads.

Torch-free. A stage's folder is a function of its key file: live artifacts come back from the
attic before Snakemake runs, superseded ones go into it afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tensorpress.config.params import BASELINE
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import is_partial, replacing
from tensorpress.files.strict_json import strict_json
from tensorpress.objectives.registry import quality_metrics
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan


def write_plan(plan: Plan) -> None:
    """Write the live artifacts of every stage: what its DVC stage depends on."""
    for stage, live in live_paths(plan).items():
        with replacing(paths.plan_file(stage)) as temporary:
            temporary.write_text(json.dumps(live, indent=1) + "\n", encoding="utf-8")


def restore_from_attic(stage: str, live: list[str]) -> None:
    """Bring live artifacts back from the attic."""
    for artifact in map(Path, live):
        kept = paths.ATTIC / artifact.relative_to(paths.RESULTS)
        if kept.exists() and not artifact.exists():
            artifact.parent.mkdir(parents=True, exist_ok=True)
            os.replace(kept, artifact)


def move_to_attic(stage: str, live: list[str]) -> None:
    """Move superseded artifacts into the attic, drop what killed jobs left, keep live ones."""
    _move_to_attic(paths.stage(stage), set(map(Path, live)))


def _move_to_attic(folder: Path, keep: set[Path]) -> None:
    holds_live = {parent for path in keep for parent in path.parents}
    for entry in sorted(folder.iterdir()):
        if is_partial(entry):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        elif entry in keep:
            continue
        elif entry in holds_live:
            _move_to_attic(entry, keep)
        else:
            _move(entry, paths.ATTIC / entry.relative_to(paths.RESULTS))


def _move(source: Path, target: Path) -> None:
    """One rename, so that a kill leaves an artifact whole on one side or the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
        source.rmdir()
    else:
        os.replace(source, target)


def prune() -> int:
    """Empty the attic; returns the bytes freed."""
    files = [p for p in paths.ATTIC.rglob("*") if p.is_file()]
    freed = sum(path.stat().st_size for path in files)
    shutil.rmtree(paths.ATTIC, ignore_errors=True)
    return freed


def commit() -> None:
    """Hand what is in the stages' folders over to DVC.

    ``TensorpressError`` repeats what DVC says where it fails.
    """
    # not --quiet, which hides its errors too
    command = [sys.executable, "-m", "dvc", "commit", "--force"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines
        said = " ".join(" ".join(errors).removeprefix("ERROR: ").split())
        here = Path.cwd()
        under_git = any((folder / ".git").exists() for folder in (here, *here.parents))
        raise TensorpressError(
            f"record: dvc commit failed: {said}" + ("" if under_git else "; run 'git init' first")
        )


def write_metrics(plan: Plan) -> None:
    """Write what ``dvc metrics`` and ``dvc plots`` show, from the live results table."""
    rows = pq.read_table(paths.results_table(plan.table_id)).to_pylist()
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        recipe = row["recipe"]
        if recipe != BASELINE:
            recipe += f"@{row['layer_set']}"
        if plan.params.layer_sets.get(row["layer_set"]) == "each":
            recipe += f"-{','.join(map(str, row['layers']))}"
        values = metrics.setdefault(row["model"], {}).setdefault(recipe, {})
        saved = row["bits_saved_with_embeddings_percent"]
        values["bits_saved_percent"] = round(saved, 3)
        of_the_model = row["layer"] is None and row["prompt"] is None
        if of_the_model and not plan.params.tasks[row["task"]].measures_time:
            values[f"{row['task']}_{row['metric']}"] = round(row["value"], 5)
    with replacing(paths.METRICS) as temporary:
        temporary.write_text(strict_json(metrics, sort_keys=True) + "\n")
    for model in dict.fromkeys(model.compared_model for model in plan.models.values()):
        _write_plot(model, [row for row in rows if row["model"] == model])


def _write_plot(model: str, rows: list[dict[str, Any]]) -> None:
    lines, shown = ["recipe,layers,bits_saved_percent,perplexity"], quality_metrics()
    for row in rows:
        if row["kind"] == "perplexity" and row["metric"] in shown:
            layers = " ".join(map(str, row["layers"]))
            saved = row["bits_saved_with_embeddings_percent"]
            lines.append(f"{row['recipe']},{layers},{saved:.4f},{row['value']:.6f}")
    with replacing(paths.PLOTS / f"{model}.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
