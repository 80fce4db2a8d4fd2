"""Benchmarks run at their smallest size; their numbers are for people, not for tests."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from support.methods import ALONE
from support.workspace import ROOT, save_tiny, tiny_llama

from tensorpress.running.records import Record


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the benchmarks with its options."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=check, capture_output=True, text=True
    )


def table(*command: str) -> list[list[str]]:
    """Cells of the rows that a benchmark prints; the first is empty."""
    printed = run(*command).stdout.splitlines()
    return [line.split("│") for line in printed if line.startswith("│")]


def test_decompose_reaches_the_peers_errors() -> None:
    rows = table("benchmarks/decompose.py", "--sizes", "small")
    assert [row[1].split()[0] for row in rows] == ["TT", "TT", "Tucker", "TD-MoE"]
    for row in rows:
        assert float(row[6]) <= 1 + 1e-6, row  # our error over theirs


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the kit for GPUs finds on the CPU, at the smallest sizes."""
    folder = tmp_path_factory.mktemp("kit")
    checkpoint, out = save_tiny(tiny_llama(), folder / "tiny"), folder / "out"
    # its python3 is this one
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["benchmarks/device.sh", out, "--checkpoint", checkpoint, "--device", "cpu"],
        cwd=ROOT, env={**os.environ, "PATH": search}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_gpu_runs_every_method_and_reaches_the_peers_errors(kit: Path) -> None:
    printed = (kit / "methods.txt").read_text()
    tables = [line for line in printed.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables]
    decomposed = {(row[0], row[1]): row for row in rows if row[1:2] in (["attention"], ["ffn"])}
    linear = {s.label for s in ALONE.values() if {"attention", "ffn"} & {*s.groups}}
    plain = {name.removesuffix("-whitened") for name, _ in decomposed}
    assert plain == {label.removesuffix("-whitened") for label in linear}
    compared = {key: float(row[8]) for key, row in decomposed.items() if row[8]}
    assert {name for name, _ in compared} == {
        "svd", "svd-whitened", "tt", "tucker_qkvo", "tucker_ffn",
    }  # fmt: skip
    for key, over in compared.items():
        assert over <= 1 + 1e-3, key
    speeds = {row[0] for row in rows if len(row) == 5 and row[0] not in ("factors", "---")}
    assert {name for name, _ in decomposed} == speeds


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_refuses_where_there_is_none() -> None:
    done = run("benchmarks/gpu.py", check=False)
    assert done.returncode == 2
    assert "--device: cuda is not allowed; allowed: cpu" in done.stderr


def test_device_kit_runs_on_a_cpu(kit: Path) -> None:
    logits, matrices = (kit / "agreement.txt").read_text().splitlines()
    assert logits.endswith("differ by 0.0e+00")
    assert matrices.endswith("differ by 0.0e+00")
    served = json.loads((kit / "served.json").read_text())["rows"]
    assert {row["layer"] for row in served} == {"ffn", "experts"}
    assert all(row["error"] < 0.02 for row in served)
    assert {row["how"] for row in served} == {"alone", "compiled"}
    methods = json.loads((kit / "methods.json").read_text())
    assert {row["label"] for row in methods["methods"]} >= {"svd", "tt", "tucker_qkvo"}
    table = (kit / "table.md").read_text()
    assert all(f"## {part}\n" in table for part in ("device", "agreement", "served", "methods"))


def test_device_kit_names_what_it_does_not_know(tmp_path: Path) -> None:
    done = subprocess.run(
        ["benchmarks/device.sh", tmp_path, "--gpu", "0"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert "--gpu is not allowed; allowed: --wheels" in done.stderr


def test_forward_computes_the_same_product() -> None:
    rows = table("benchmarks/forward.py", "--sizes", "small")
    assert {row[1].strip() for row in rows} == {"tt_matrix", "low_rank"}
    for row in rows:
        assert float(row[9]) < 1e-5, row


def test_losses_are_the_same_in_chunks() -> None:
    rows = table("benchmarks/losses.py", "--size", "small", "--chunk", "16")
    assert [row[1].strip() for row in rows] == ["transposed", "rows", "chunks"]
    for row in rows:
        assert float(row[5]) < 1e-5, row
        assert float(row[6]) < 1e-4, row
    assert float(rows[2][4]) < float(rows[1][4]) / 2  # MiB


def test_shapes_are_searched_on_an_image_and_a_weight() -> None:
    rows = table("benchmarks/shapes.py")
    searches = ["own", "genetic", "ours, order 2", "ours, order 3"]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == [
        (name, search) for name in ("image", "weight") for search in searches
    ]
    for row in rows:
        modes = [int(mode) for mode in row[3].split(" x ")]
        assert math.prod(modes) == {"image": 48 * 48 * 3, "weight": 32 * 48}[row[1].strip()]
        assert int(row[4]) <= math.prod(modes)
    values = {(row[1].strip(), row[2].strip()): int(row[4]) for row in rows}
    # no shape of a matrix of falling spectrum takes fewer values than the matrix itself
    assert min(v for (name, _), v in values.items() if name == "weight") == values["weight", "own"]


@pytest.mark.parametrize("form", ["fp8", "gptq"])
def test_fetch_takes_no_more_than_is_foreseen(tmp_path: Path, form: str) -> None:
    done = run("benchmarks/fetch.py", "tiny", str(tmp_path / "work"), "--format", form)
    found = re.search(r"peak ([\d,]+) MB, foreseen ([\d,]+) MB", done.stdout)
    assert found
    peak, foreseen = (int(each.replace(",", "")) for each in found.groups())
    assert 0 < peak < foreseen


def test_dag_plans_every_method_layer_recipe_and_task() -> None:
    rows = table("benchmarks/dag.py", "--size", "small")
    jobs = {row[1].strip(): int(row[2]) for row in rows if row[2].strip()}
    assert jobs["decompose"] == 6 * 4
    assert jobs["assemble"] == 6 + 1  # the baseline is one too
    assert jobs["evaluate"] == 6 * 3 + 1  # of three tasks two compare with the baseline
    assert (jobs["all made"], jobs["one file"]) == (0, 1)


def test_run_splits_the_time_of_the_last_drivers_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, driver in enumerate(("earlier", "last", "last")):
        began = datetime(2026, 1, 1, number, tzinfo=UTC)
        Record(
            rule="evaluate", name=f"job-{number}", state="done", driver=driver, attempt=1,
            host="here", pid=1, started=began, ended=began, start_seconds=0.5, wall_seconds=4,
            load_seconds=1, cpu_seconds=3.5, peak_rss_mb=100.0 * number,
        ).write()  # fmt: skip
    rows = table("benchmarks/run.py", "--of", str(tmp_path))
    cells = ["evaluate", "2", "1.0", "2.0", "6.0", "7.0", "200"]
    assert [[cell.strip() for cell in row[1:8]] for row in rows] == [cells, ["all", *cells[1:]]]
