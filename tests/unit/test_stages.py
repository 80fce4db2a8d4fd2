"""Stages read what they are given, wherever it lies: a storage provider keeps it elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.workspace import tiny_params

from tensorpress.checkpoints.rows import ResultRow, read_rows
from tensorpress.config.params import parse
from tensorpress.files import paths
from tensorpress.planning.jobs import live_jobs
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages import (
    advise,
    aggregate,
    assemble,
    calibrate,
    decompose,
    evaluate,
    fetch_corpus,
    fetch_model,
    options,
    recover,
    transform,
)


def test_a_study_whose_artifacts_lie_elsewhere(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_params()
    (inputs / "inputs/train.txt").write_text("To be trained on. " * 200)
    params["corpora"]["train"] = {"source": "file", "path": "inputs/train.txt"}
    params["methods"]["advised"] = {"method": "advised", "saved": 0.1, "methods": ["svd"]}
    params["tasks"]["prediction"] = {"kind": "prediction"}
    svd, lora = (
        params["recipes"]["svd"],
        {"train": "adapters", "rank": 2, "steps": 1, "window": 64, "corpus": "train"},
    )
    params["recipes"] = {
        "svd": svd | {"tasks": ["heldout", "prediction"]},
        "lora": svd | {"recover": lora},
        "advised": svd | {"steps": [{"modules": ["all"], "method": "advised"}], "layers": ["all"]},
    }
    params["layer_sets"]["all"] = "all"
    params["models"]["tiny"]["transform"] = "fold_norms"
    plan = Plan(parse(params))

    def at(path: Path) -> Path:
        """Where an artifact lies."""
        (inputs / "elsewhere" / path).parent.mkdir(parents=True, exist_ok=True)
        return inputs / "elsewhere" / path

    def each_at(found: list[Path]) -> list[Path]:
        return [at(path) for path in found]

    on = {"device": CPU, "dtype": torch.float32}
    (model,) = plan.models.values()
    fetched = at(model.source.checkpoint)
    fetch_model.run(model.source, fetched, 1, **on)
    for corpus in plan.corpora.values():
        fetch_corpus.run(corpus, at(paths.corpus(corpus.id)))
    (inputs / "apart").mkdir()
    monkeypatch.chdir(inputs / "apart")
    source = at(model.checkpoint)
    transform.run(model, fetched, [], source)
    for made in plan.calibrations.values():
        text = at(paths.corpus(made.corpus.id))
        calibrate.run(made, source, text, at(paths.calibration(made.id)), **on)
    for made in plan.advices.values():
        moments = at(paths.calibration(made.options.calibration.id))
        for layer, file in zip(made.scope.layers, made.option_files, strict=True):
            options.run(made.options, layer, source, moments, at(file), CPU)
        advise.run(made, source, each_at(made.option_files), at(paths.advice(made.id)))
    for placed in plan.used_decompositions:
        made = placed.decomposition
        larger = each_at(plan.larger(made.id, placed.layer))
        given = (source, each_at(made.moments), each_at(made.advice), larger)
        decompose.run(made, placed.layer, *given, at(placed.factors), at(placed.rows), CPU)
    for made in plan.runs.values():
        factors = each_at([placed.factors for placed in made.placements])
        errors = each_at([placed.rows for placed in made.placements])
        assemble.run(made, source, fetched, factors, errors, at(made.checkpoint), at(made.storage))
    for made in plan.recoveries.values():
        start, text = made.assembled, at(paths.corpus(made.corpus.id))
        given = (at(start.checkpoint), [], at(start.storage), text)
        recover.run(made, *given, at(made.checkpoint), at(made.storage), **on)
    for made in plan.evaluations.values():
        given = (each_at(made.dense_checkpoint), each_at(made.moments), each_at(made.texts))
        target = at(paths.evaluation_rows(made.id))
        evaluate.run(made, at(made.run.checkpoint), *given, target, **on)
    tables = each_at(
        [paths.results_table("t"), paths.decompositions_table("t"), paths.jobs_table("t")]
    )
    aggregate.run(
        plan.recipe_runs,
        live_jobs(plan),
        {name: at(paths.advice(name)) for name in plan.advices},
        each_at([paths.evaluation_rows(made) for made in plan.evaluations]),
        each_at([made.storage for made in plan.checkpoints.values()]),
        each_at([placed.rows for placed in plan.used_decompositions]),
        *tables,
    )
    rows = read_rows(tables[:1], ResultRow)
    assert {row.recipe for row in rows} == {"baseline", "svd", "lora", "advised"}
    # each row beside the bits of its own checkpoint
    saved = {row.recipe: row.bits_saved_modules_percent for row in rows}
    assert saved["baseline"] == 0 < saved["svd"]
    assert saved["lora"] < saved["svd"]
    assert not list(Path.cwd().iterdir())
