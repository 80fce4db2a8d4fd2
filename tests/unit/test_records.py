"""What jobs say of themselves, and what status and the table of jobs make of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.workspace import ROOT, tiny_params

from tensorpress.checkpoints.rows import DecompositionRow, JobRow, ResultRow, write_rows
from tensorpress.commands import status
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.resident import peak_resident_bytes
from tensorpress.planning.jobs import Job, live_jobs, live_paths
from tensorpress.planning.plan import Plan
from tensorpress.report import wording
from tensorpress.report.queries import run_query
from tensorpress.running.job import job, perform
from tensorpress.running.precision import fast_dtype
from tensorpress.running.records import RUN, Record, read, read_all, run_line
from tensorpress.running.request import Request
from tensorpress.stages.aggregation import job_rows

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN, "now")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(
        "tensorpress.running.job._collect_less", lambda: None
    )  # in the tests' own process
    for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def request(
    gpu: int | None = None, dtype: str | None = None, name: str = "tiny-svd-001"
) -> Request:
    """A job of the rule ``decompose``."""
    return Request("decompose", paths.LOGS / f"decompose/{name}.log", (), gpu, 1, dtype)


def planted(rule: str, name: str, **fields: Any) -> Record:
    """A record on the disk: a done job of ten seconds, unless said otherwise."""
    given = {
        "state": "done", "driver": "now", "attempt": 1, "host": socket.gethostname(),
        "pid": os.getpid(), "devices": ("cpu",), "started": START, "wall_seconds": 10.0,
        "peak_rss_mb": 100.0,
    }  # fmt: skip
    record = Record(rule=rule, name=name, **{**given, **fields})
    record.write()
    return record


def test_a_job_without_a_device_keeps_to_its_share_of_the_cores() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # as a fork finds it
        with job(request()) as granted:
            assert granted == {}
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_job_records_its_start_and_its_end() -> None:
    with job(request(gpu=1)):
        running = read("decompose", "tiny-svd-001")
        assert running is not None
        assert (running.state, running.ended, running.devices) == ("running", None, ("cpu",))
    done = read("decompose", "tiny-svd-001")
    assert done is not None
    assert (done.state, done.driver, done.attempt, done.error) == ("done", "now", 1, None)
    assert (done.host, done.pid, done.gpus) == (socket.gethostname(), os.getpid(), 0)
    assert done.started == running.started
    assert done.ended is not None
    assert 0 <= done.wall_seconds <= (done.ended - done.started).total_seconds() + 0.01
    assert done.peak_rss_mb > 1
    assert [record.model_dump() for record in read_all()] == [done.model_dump()]


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_a_job_that_runs_models_records_the_precision(asked: str) -> None:
    with job(request(gpu=1, dtype=asked)) as granted:
        dtype = granted["dtype"]
    record = read("decompose", "tiny-svd-001")
    assert record is not None
    assert dtype == getattr(torch, str(record.dtype))
    log = record.log.read_text()
    if asked == "auto":
        assert dtype == fast_dtype(torch.device("cpu"))[0]
        assert f"models run in {record.dtype}: " in log
    else:
        assert dtype == torch.bfloat16
        assert log == "finished\n"


def test_peak_memory_is_of_the_process_alone() -> None:
    """Above what it held once, and far below this process, which has torch loaded."""
    code = (
        "from tensorpress.files.resident import peak_resident_bytes\n"
        "block = bytearray(b'1') * 80_000_000\ndel block\nprint(peak_resident_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 80e6 < int(done.stdout) < 150e6 < peak_resident_bytes()


def test_a_failed_job_says_why_and_the_next_attempt_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for attempt in (1, 2):
        with pytest.raises(SystemExit), job(request()):
            raise TensorpressError("ranks: 9 is not allowed; allowed: 1 to 8")
        failed = read("decompose", "tiny-svd-001")
        assert failed is not None
        assert (failed.state, failed.attempt) == ("failed", attempt)
        assert failed.error == "ranks: 9 is not allowed; allowed: 1 to 8"
    with pytest.raises(SystemExit), job(request()):
        raise ValueError("two\nlines")
    unexpected = read("decompose", "tiny-svd-001")
    assert unexpected is not None
    assert unexpected.error == f"unexpected ValueError: two lines (traceback in {unexpected.log})"
    with pytest.raises(KeyboardInterrupt), job(request()):
        raise KeyboardInterrupt
    assert read("decompose", "tiny-svd-001").error == "interrupted"
    with job(request()):
        pass
    assert read("decompose", "tiny-svd-001").attempt == 5
    with job(request()):
        pass
    assert read("decompose", "tiny-svd-001").attempt == 1


def test_under_slurm_the_record_names_job_node_and_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with job(request(gpu=2)):
        pass
    record = read("decompose", "tiny-svd-001")
    assert (record.slurm_job, record.host, record.devices) == ("17", "node2", ("2", "3"))
    assert record.gpus == 2


def test_a_record_that_cannot_be_written_fails_no_job() -> None:
    paths.RESULTS.mkdir()
    paths.RECORDS.write_text("not a folder")
    with job(request()):
        pass
    assert read("decompose", "tiny-svd-001") is None
    assert (paths.LOGS / "decompose/tiny-svd-001.log").read_text() == "finished\n"


def test_a_damaged_record_counts_as_none() -> None:
    planted("decompose", "a")
    paths.record("decompose", "b").write_text('{"rule": "dec')
    assert [record.name for record in read_all()] == ["a"]


def test_every_live_artifact_has_its_job(inputs: Path) -> None:
    params = tiny_params()
    params["corpora"]["unused"] = {"source": "file", "path": "inputs/text.txt"}
    plan = Plan(parse(params))
    jobs = live_jobs(plan)
    for stage, live in live_paths(plan).items():
        assert sorted(str(p) for j in jobs if j.stage == stage for p in j.outputs) == live
    assert len({(job.rule, job.name) for job in jobs}) == len(jobs) == 14


def test_status_counts_what_is_done_running_failed_and_left() -> None:
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    killed.kill()
    killed.wait()
    jobs = [
        Job("decompose", f"{model}-{i}", model, (Path(f"results/decompose/{model}-{i}"),))
        for model in ("tiny", "moe")
        for i in range(5)
    ]
    Path("results/decompose").mkdir(parents=True)
    for name, seconds in (("tiny-0", 10), ("tiny-1", 20), ("moe-0", 60)):
        Path("results/decompose", name).touch()
        planted("decompose", name, wall_seconds=seconds)
    planted("decompose", "tiny-superseded", wall_seconds=60)
    planted("decompose", "tiny-2", state="running")
    planted("decompose", "tiny-3", state="failed", error="rank: 9 is not allowed")
    planted("decompose", "tiny-4", state="running", pid=killed.pid)
    planted("decompose", "moe-1", state="running", host="node2", slurm_job="17")
    Path("results/decompose/moe-2").touch()  # pulled: it has no record
    planted("decompose", "moe-3")  # its artifact was taken away
    status.LOCKS.mkdir(parents=True)
    (status.LOCKS / "0.output.lock").touch()

    found = status.status(jobs)
    (stage,) = (s for s in found.stages if s.stage == "decompose")
    assert (stage.done, stage.running, stage.failed, stage.left) == (4, 2, 2, 2)
    assert stage.used_seconds == 10 + 20 + 60
    # tiny took 10, 20 and 60; moe 60, and 10 for the artifact that is gone
    assert stage.expected_seconds == pytest.approx(3 * 30 + 3 * 35)
    assert found.total == stage.model_copy(update={"stage": "total"})
    assert [record.name for record in found.running] == ["tiny-2", "moe-1"]
    assert {record.name: record.error for record in found.failed} == {
        "tiny-3": "rank: 9 is not allowed",
        "tiny-4": "killed: its process is gone",
    }

    # nobody drives the job on the other host any more
    (status.LOCKS / "0.output.lock").unlink()
    after = status.status(jobs).total
    assert (after.running, after.failed) == (1, 3)


def test_what_never_ran_takes_an_unknown_time() -> None:
    jobs = [Job("assemble", "tiny-0", "tiny", (Path("results/assemble/tiny-0"),))]
    assert status.status(jobs).total.expected_seconds is None
    planted("assemble", "other-0", wall_seconds=7)
    assert status.status(jobs).total.expected_seconds == 7


def some_job_rows() -> list[JobRow]:
    """Two jobs of this run that overlap, one of an earlier run, one from elsewhere."""
    jobs = [Job(rule, f"tiny-{rule}", "tiny", ()) for rule in ("calibrate", "decompose")]
    jobs += [Job(rule, "tiny-0", "tiny", ()) for rule in ("fetch_model", "advise")]
    records = [
        planted("calibrate", "tiny-calibrate", wall_seconds=20, devices=("0",), peak_rss_mb=500),
        planted(
            "decompose", "tiny-decompose", started=START + timedelta(seconds=15), attempt=3,
            wall_seconds=25, devices=("1", "2"), peak_rss_mb=300,
        ),
        planted("fetch_model", "tiny-0", driver="yesterday", wall_seconds=40),
        planted("fetch_model", "superseded", wall_seconds=1000),
    ]  # fmt: skip
    return job_rows(jobs, records, "now")


def test_the_table_of_jobs_says_what_they_cost(tmp_path: Path) -> None:
    rows = some_job_rows()
    assert [row.made for row in rows] == ["this run", "this run", "earlier run", "elsewhere"]
    tables = {name: tmp_path / f"{name}.parquet" for name in ("results", "decompositions", "jobs")}
    write_rows([], ResultRow, tables["results"])
    write_rows([], DecompositionRow, tables["decompositions"])
    write_rows(rows, JobRow, tables["jobs"])
    totals = run_query("run", tables, ROOT / "queries").df()
    whole = totals.iloc[0]
    assert whole[["jobs", "this_run", "earlier_run", "elsewhere"]].tolist() == [4, 2, 1, 1]
    assert whole["failed_attempts"] == 2
    assert whole["wall_seconds"] == 40  # from 0 to 20 and from 15 to 40
    assert whole["job_seconds"] == 45
    assert whole["recorded_job_seconds"] == 85
    assert whole["gpu_hours"] == pytest.approx((20 + 2 * 25) / 3600)
    assert (whole["peak_rss_mb"], whole["peak_rule"]) == (500, "calibrate")
    assert whole["slowest"] == "fetch_model tiny-0"
    words = wording.run(totals)
    assert words.startswith("Of 4 jobs this run did 2, in 0:00:40 h (0:00:45 h of jobs, 0.02 GPU")
    assert "2 were found made. 2 attempts failed before" in words
    assert "500 MB, in <code>calibrate</code>" in words
    rules = run_query("run_rules", tables, ROOT / "queries").df().set_index("rule")
    assert list(rules.index) == ["fetch_model", "decompose", "calibrate", "advise"]
    assert rules.loc["decompose", "gpu_hours"] == pytest.approx(50 / 3600)
    slow = run_query("run_jobs", tables, ROOT / "queries").df()
    assert list(slow["wall_seconds"]) == [40, 25, 20]


def test_the_line_of_a_run() -> None:
    some_job_rows()
    ended = [
        record.model_copy(update={"ended": record.started + timedelta(seconds=record.wall_seconds)})
        for record in read_all()
        if record.name != "superseded"
    ]
    assert run_line(ended, "now") == (
        "this run: 2 jobs done, 0 failed, 45 s of jobs in 40 s, peak memory 500 MB (calibrate)"
    )
    assert run_line(ended, "tomorrow") == "this run: no jobs"


def test_a_device_that_a_profile_names_for_all_rules_does_not_reach_those_without_use_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(target: str) -> None:
        Path(target).write_text("made")

    monkeypatch.setitem(sys.modules, "tensorpress.stages.fetch_corpus", SimpleNamespace(run=run))
    log = paths.LOGS / "fetch_corpus/text.log"
    asked = Request("fetch_corpus", log, (), 0, 1, arguments={"target": "text.txt"})
    assert perform(asked) == 0
    assert Path("text.txt").read_text() == "made"
