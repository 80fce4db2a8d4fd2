"""GPU slots with pretended ids: concurrent jobs never share one."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpress.running.slots import gpu_slot, visible_ids

JOB = """
import sys, time
from pathlib import Path
from tensorpress.running.slots import gpu_slot
folder = Path(sys.argv[1])
with gpu_slot(folder, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0.01) as device:
    begin = time.monotonic()
    time.sleep(0.3)
    end = time.monotonic()
print(device, begin, end)
"""


def test_eight_jobs_over_four_ids_never_share_one(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    held = [job.communicate()[0].split() for job in jobs]
    assert {device for device, _, _ in held} == {"0", "1", "2", "3"}
    for device in "0123":
        spans = sorted((float(b), float(e)) for d, b, e in held if d == device)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), spans


def test_killed_holder_frees_its_device(tmp_path: Path) -> None:
    hold = JOB.replace("time.sleep(0.3)", "print('held', flush=True); time.sleep(60)").replace(
        '"0,1,2,3"', '"5"'
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    with gpu_slot(tmp_path, {"CUDA_VISIBLE_DEVICES": "5"}, 0.01) as device:
        assert device == "5"


def test_jobs_of_several_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    pair = JOB.replace("0.01)", "0.01, count=2)").replace("0,1,2,3", "0,1,2").replace("0.3", "0.1")
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", pair, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    held = [job.communicate(timeout=60)[0].split() for job in jobs]
    assert all(len(set(ids.split(","))) == 2 for ids, _, _ in held)
    spans = sorted((float(begin), float(end)) for _, begin, end in held)
    # of three devices only one job can have two
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), spans


def test_more_devices_than_there_are(tmp_path: Path) -> None:
    with gpu_slot(tmp_path, {"CUDA_VISIBLE_DEVICES": "3,5"}, 0.01, count=4) as device:
        assert device == "3,5"


def test_no_gpu_yields_none(tmp_path: Path) -> None:
    for listed in ("", "-1"):
        with gpu_slot(tmp_path, {"CUDA_VISIBLE_DEVICES": listed}) as device:
            assert device is None


def test_scheduler_list_is_respected(tmp_path: Path) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_JOB_ID": "7"}
    with gpu_slot(tmp_path, environment) as device:
        assert device == "2,3"
    assert list(tmp_path.iterdir()) == []


def test_slurm_grants_nothing_where_it_lists_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert visible_ids({}) == ["0", "1"]
    assert visible_ids({"SLURM_JOB_ID": "7"}) == []


def test_ids_may_be_names() -> None:
    assert visible_ids({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}) == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize("listed", ["0", "0,1"])
def test_ids_are_read(listed: str) -> None:
    assert visible_ids({"CUDA_VISIBLE_DEVICES": listed}) == listed.split(",")
