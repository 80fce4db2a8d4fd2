"""Restoration of super weights and other entries: by hand, of runs, and beside what is stored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.planted import select
from support.stages import EXPERTS, FFN, job_of, make, records
from support.study import result

from tensorpress.analysis.super_weights import (
    restoration,
    watched_entries,
)
from tensorpress.architectures.published import SuperWeight
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.rows import ResultRow, write_rows
from tensorpress.config.tasks.restoration import Spec as Restoration
from tensorpress.config.tasks.super_weights import Spec as SuperWeights
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.tasks import restoration as restoration_task
from tensorpress.evaluation.tasks import super_weights as super_weights_task
from tensorpress.formats.modules import FactoredLinear
from tensorpress.running.oom import CPU


def test_restoration_by_hand() -> None:
    weight = torch.zeros(1, 20, 30)
    weight[0, 4, 5], weight[0, 1, 2], weight[0, 0, 3] = 8.0, -6.0, 3.0
    entries = watched_entries(weight, [(4, 5)], 2, seed=0)
    assert entries["super_weights"].tolist() == [4 * 30 + 5]
    assert entries["next_2"].tolist() == [1 * 30 + 2, 3]
    rebuilt = weight.clone()
    rebuilt[0, 4, 5], rebuilt[0, 1, 2], rebuilt[0, 0, 3] = 6.0, 0.0, 0.0
    alone = restoration(weight, rebuilt, entries["super_weights"])
    assert (alone.entries, alone.absolute_error, alone.relative_error) == (1, 2.0, 0.25)
    lost = restoration(weight, rebuilt, entries["next_2"])
    assert (lost.entries, lost.absolute_error, lost.relative_error) == (2, 4.5, 1.0)


def test_watched_entries_of_stacks_and_small_matrices() -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    entries = watched_entries(weight, [(1, 2)], 64, seed=3)
    assert entries["super_weights"].tolist() == [7, 27, 47]
    rest = set(range(60)) - {7, 27, 47}
    assert set(entries["next_64"].tolist()) == rest
    assert len(set(entries["random_64"].tolist())) == 57
    assert "super_weights" not in watched_entries(weight, [], 64, seed=3)
    drawn = [watched_entries(weight, [], 8, seed)["random_8"].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_task_restoration_against_the_rebuilt_matrices(
    planted_directory: Path, tmp_path: Path
) -> None:
    run = make(planted_directory, "svd", {"rank": 3}, FFN, tmp_path / "svd").target
    rows = restoration_task.evaluate(
        job_of(run, planted_directory), Restoration(kind="restoration")
    )
    assert [row.value for row in select(rows, "super_weights")] == [1]
    errors = {(r.metric, r.module, r.entries): r for r in rows if r.module}
    (stored,) = [
        m
        for m in json.loads((run / "plan.json").read_text())["modules"]
        if m["module"] == "ffn.down"
    ]
    share = errors["stored_share", "ffn.down", None].value
    assert (
        share == pytest.approx(3 * (32 + 48) / (32 * 48)) == stored["stack_bits"] / (32 * 32 * 48)
    )
    true = load_model(planted_directory, CPU).model.layers[1].mlp.down_proj.weight
    linear = load_model(run, CPU).model.layers[1].mlp.down_proj
    assert isinstance(linear, FactoredLinear)
    off = float((linear.weight - true)[7, 30].detach().abs())
    row = errors["absolute_error", "ffn.down", "super_weights"]
    assert (row.value, row.samples, row.layer) == (pytest.approx(off), 1, 1)
    assert row.stored_by == "svd"
    relative = {key[1:]: r.value for key, r in errors.items() if key[0] == "relative_error"}
    assert relative["ffn.down", "super_weights"] == pytest.approx(off / 5)
    # one entry of norm 5 among noise of 0.02 is what a truncated SVD keeps first
    assert relative["ffn.down", "super_weights"] < 0.01 < relative["ffn.down", "next_64"]
    assert {module for module, _ in relative} == {"ffn.gate", "ffn.up", "ffn.down"}
    assert ("ffn.gate", "super_weights") not in relative


def test_task_restoration_of_experts_and_given_places(moe_directory: Path, tmp_path: Path) -> None:
    run = make(moe_directory, "drop", {}, EXPERTS, tmp_path / "drop").target
    place = SuperWeight(layer=1, module="experts.up", row=2, column=3)
    spec = Restoration(kind="restoration", super_weights=(place,))
    rows = restoration_task.evaluate(job_of(run, moe_directory), spec)
    lost = select(rows, "relative_error")
    assert {row.value for row in lost} == {1.0}
    (ours,) = [row for row in lost if (row.module, row.entries) == ("experts.up", "super_weights")]
    assert ours.samples == 4  # one an expert
    for given, allowed in [
        ({"layer": 2, "row": 0, "column": 0}, "0 to 1"),
        ({"layer": 1, "row": 0, "column": 0}, "attention.q"),
        ({"layer": 1, "module": "experts.up", "row": 24, "column": 0}, r"\(23, 31\)"),
    ]:
        spec = Restoration(kind="restoration", super_weights=(SuperWeight(**given),))
        with pytest.raises(TensorpressError, match=f"super_weights.*allowed: .*{allowed}"):
            restoration_task.evaluate(job_of(run, moe_directory), spec)


def test_task_restoration_wants_a_compressed_run(llama_directory: Path) -> None:
    with pytest.raises(TensorpressError, match=r"plan\.json: missing: nothing was replaced"):
        restoration_task.evaluate(
            job_of(llama_directory, llama_directory), Restoration(kind="restoration")
        )


def test_queries_put_errors_beside_what_is_stored(planted_directory: Path, tmp_path: Path) -> None:
    run = make(planted_directory, "svd", {"rank": 3}, FFN, tmp_path / "svd").target
    measured = {
        ("baseline", "super_weights"): super_weights_task.evaluate(
            job_of(planted_directory), SuperWeights(kind="super_weights")
        ),
        ("svd", "restoration"): restoration_task.evaluate(
            job_of(run, planted_directory), Restoration(kind="restoration")
        ),
    }
    rows = [
        result(**dataclasses.asdict(row), model="m", recipe=recipe, kind=kind)
        for (recipe, kind), found in measured.items()
        for row in found
    ]
    write_rows(rows, ResultRow, tmp_path / "results.parquet")

    tables = {"results": tmp_path / "results.parquet"}
    errors = records("restoration", tables)
    down = [row for row in errors if row["module"] == "ffn.down"]
    assert [row["entries"] for row in down] == ["next_64", "random_64", "super_weights"]
    assert all(row["has_super_weight"] for row in down)
    assert all(row["stored_percent"] == pytest.approx(100 * 3 * 80 / 1536) for row in down)
    assert not any(r["has_super_weight"] for r in errors if r["module"] == "ffn.up")
    (weight,) = [row for row in records("super_weights", tables) if row["metric"] == "super_weight"]
    assert (weight["layer"], weight["row"], weight["column"]) == (1, 7, 30)
    cells = [row for row in records("weight_map", tables) if row["metric"] == "magnitude"]
    assert max(cells, key=lambda row: row["magnitude"]).items() >= {"row": 7, "column": 30}.items()
