"""One study watched from nothing over a failure to its end: status, table of jobs, report."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.workspace import Workspace, tiny_params

from tensorpress.checkpoints.rows import JobRow, read_rows
from tensorpress.report import wording
from tensorpress.running.records import Record

HELD = """
    import time

    from tensorpress.errors import TensorpressError

    while not Path("go").exists():
        time.sleep(0.05)
    raise TensorpressError("planted: this is not allowed; allowed: that")
"""


@dataclass
class Watched:
    """What status said on the way, and what was left behind."""

    workspace: Workspace
    before: dict[str, Any]
    during: dict[str, Any]
    failed: dict[str, Any]
    after: dict[str, Any]
    rows: list[JobRow]


def status(workspace: Workspace) -> dict[str, Any]:
    return json.loads(workspace.run("tensorpress", "status", "--json").stdout)


def counts(found: dict[str, Any], stage: str = "total") -> tuple[int, int, int, int]:
    """Done, running, failed, left."""
    (it,) = (s for s in [*found["stages"], found["total"]] if s["stage"] == stage)
    return it["done"], it["running"], it["failed"], it["left"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    params = tiny_params()
    params["reports"] = {"run": {"notebook": "run", "model": "tiny", "task": "heldout"}}
    workspace = Workspace.create(tmp_path_factory.mktemp("watched") / "project", params)
    before = status(workspace)

    # assembling waits, so that it can be seen with nothing made, and then fails
    workspace.plant("assemble", HELD)
    driver = subprocess.Popen(
        ["snakemake", "--cores", "2", "--keep-going"], cwd=workspace.folder,
        env=workspace.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assembling = workspace.folder / "results/records/assemble"
    while driver.poll() is None and len(list(assembling.glob("[!.]*.json"))) < 2:
        time.sleep(0.05)
    during = status(workspace)
    (workspace.folder / "go").touch()
    assert driver.wait(timeout=600) != 0
    failed = status(workspace)

    workspace.weed()
    workspace.snakemake()
    (table,) = (workspace.folder / "results/aggregate").rglob("jobs.parquet")
    return Watched(workspace, before, during, failed, status(workspace), read_rows([table], JobRow))


def test_before_a_run_all_is_left(watched: Watched) -> None:
    assert counts(watched.before) == (0, 0, 0, 14)
    assert watched.before["total"]["expected_seconds"] is None


def test_a_run_is_seen_at_work(watched: Watched) -> None:
    _, running, failed, _ = counts(watched.during, "assemble")
    assert (running, failed) == (2, 0)
    records = [Record.model_validate(record) for record in watched.during["running"]]
    at_work = [record for record in records if record.rule == "assemble"]
    assert len({record.pid for record in at_work}) == 2
    assert {(record.state, record.attempt, record.devices) for record in at_work} == {
        ("running", 1, ("cpu",))
    }


def test_failures_are_listed_and_the_rest_is_left(watched: Watched) -> None:
    assert counts(watched.failed, "assemble") == (0, 0, 3, 0)
    assert counts(watched.failed) == (5, 0, 3, 6)
    assert {record["error"] for record in watched.failed["failed"]} == {
        "planted: this is not allowed; allowed: that"
    }
    for record in watched.failed["failed"]:
        assert record["log"] == f"results/logs/assemble/{record['name']}.log"
    (decompose,) = (s for s in watched.failed["stages"] if s["stage"] == "decompose")
    assert decompose["used_seconds"] > 0
    assert decompose["expected_seconds"] == 0


def test_afterwards_all_is_done(watched: Watched) -> None:
    assert counts(watched.after) == (14, 0, 0, 0)
    assert watched.after["total"]["expected_seconds"] == 0
    assert watched.after["total"]["used_seconds"] > watched.failed["total"]["used_seconds"]
    assert not watched.after["running"] + watched.after["failed"]


def test_the_table_tells_what_this_run_made(watched: Watched) -> None:
    made = {(row.rule, row.made, row.attempts) for row in watched.rows}
    assert made == {
        *((rule, "earlier run", 1) for rule in ("fetch_model", "fetch_corpus", "calibrate")),
        ("decompose", "earlier run", 1),
        ("assemble", "this run", 2),
        ("evaluate", "this run", 1),
    }
    assert len(watched.rows) == 11
    assert len({row.driver for row in watched.rows}) == 2
    assert all(row.peak_rss_mb > 20 and row.wall_seconds >= 0 for row in watched.rows)


def test_the_report_says_what_the_table_says(watched: Watched) -> None:
    (page,) = (watched.workspace.folder / "results/reports").glob("run-*.html")
    text = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    lead = text.find(class_="lead").text
    assert lead.startswith("Of 11 jobs this run did 6, in ")
    assert "; 5 were found made. 3 attempts failed" in lead
    most = max(watched.rows, key=lambda row: row.peak_rss_mb)
    assert f"Most memory: {most.peak_rss_mb:,.0f} MB, in {most.rule};" in lead
    totals = watched.workspace.run("tensorpress", "query", "run", "--json").stdout
    said = wording.run(pd.DataFrame(json.loads(totals)))
    assert BeautifulSoup(said, "html.parser").text == lead


def test_measurements_are_no_part_of_the_study(watched: Watched) -> None:
    results = watched.workspace.folder / "results"

    def names(folder: Path) -> list[Path]:
        return sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.*"))

    logs = names(results / "logs")
    assert len(logs) == 14
    assert names(results / "records") == logs
    shutil.rmtree(results / "records")
    assert watched.workspace.nothing_to_do()
    assert counts(status(watched.workspace)) == (14, 0, 0, 0)
