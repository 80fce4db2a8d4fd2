"""The workflow on a GPU: every stage is granted it, and the numbers are those of the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support.faults import project_of_every_stage
from support.workspace import Workspace

from tensorpress.running.records import read_all

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]

ON_GPU = {"fetch_model", "calibrate", "options", "decompose", "recover", "evaluate"}


def values(workspace: Workspace) -> dict[tuple[str, str], float]:
    """What a run measured, by file and metric."""
    return {
        (file.name, row["metric"]): row["value"]
        for file in (workspace.folder / "results/evaluate").rglob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    }


def run(workspace: Workspace) -> None:
    """The study of every stage, to the last of its evaluations."""
    # two jobs at a time, of which one waits for the only device or takes the second
    workspace.snakemake("--resources", "gpu=2", "--", "stage_evaluate")


def test_a_study_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_cpu = (project_of_every_stage(tmp_path / name) for name in ("gpu", "cpu"))
    on_cpu.variables["CUDA_VISIBLE_DEVICES"] = ""
    with ThreadPoolExecutor() as pool:
        list(pool.map(run, (on_gpu, on_cpu)))
    ours, expected = values(on_gpu), values(on_cpu)
    assert ours.keys() == expected.keys()
    assert ours
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, rel=5e-3), key
    monkeypatch.chdir(on_gpu.folder)
    records = [each for each in read_all() if each.rule in ON_GPU]
    assert {each.rule for each in records} == ON_GPU
    for each in records:
        assert each.devices != ("cpu",), each
        assert each.gpu == torch.cuda.get_device_name(0), each
