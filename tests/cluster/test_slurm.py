"""The tiny study on a real Slurm: three nodes and four pretended GPUs on this machine.

Read are Slurm's own states and the records that jobs leave. Each test edits the profile as a site
would. Status polls of the plugin back off by ten seconds each, so most of the time is waiting: the
whole study runs beside the other tests.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from support.workspace import SHARED, Workspace, tiny_params

from tensorpress.running.records import Record

pytestmark = pytest.mark.slurm

SMALL_MB = 350
"""More than a Snakemake needs, less than one with torch beside it."""


def reason_to_skip() -> str | None:
    if not (SHARED / "slurm").is_dir():
        return f"{SHARED / 'slurm'} is missing"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not which(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "snakemake-executor-plugin-slurm is not installed"
    if os.getuid() != 0:
        return "only root can start Slurm's daemons"
    if subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0:
        return "a Slurm is already at work here"
    return None


def which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Slurm's daemons, from a copy of the shared templates."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    shutil.copytree(SHARED / "slurm", folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    template = folder / "slurm.conf.in"
    text = template.read_text().replace("MaxTime=60", "MaxTime=UNLIMITED")
    template.write_text(text.replace("MinJobAge=300", "MinJobAge=7200"))
    try:
        subprocess.run(["bash", folder / "up.sh", folder], check=True, timeout=120)
        yield folder
    finally:
        subprocess.run(["bash", folder / "down.sh", folder], check=False, timeout=120)
        # with a configuration but no daemon every start of Snakemake asks for it in vain, for 9 s
        for name in ("slurm.conf", "gres.conf"):
            Path("/etc/slurm", name).unlink(missing_ok=True)
        kill_survivors(tmp_path_factory.getbasetemp())


def kill_survivors(folder: Path) -> None:
    """End what a cancelled job left: without cgroups Slurm loses a Snakemake that outlives TERM."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                os.kill(int(entry.name), signal.SIGKILL)


class Site(Workspace):
    """A project whose owner has edited ``profiles/slurm``."""

    @classmethod
    def edited(cls, folder: Path, params: dict, edit: Callable[[dict], None]) -> Site:
        site = cls.create(folder, params)
        path = folder / "profiles/slurm/config.yaml"
        profile = yaml.safe_load(path.read_text())
        profile.update(
            {"seconds-between-status-checks": 5, "slurm-init-seconds-before-status-checks": 5}
        )
        edit(profile)
        path.write_text(yaml.safe_dump(profile))
        return site

    def driver(self, *targets: str) -> subprocess.Popen[str]:
        """A run through Slurm, begun in the background; its output goes to ``driver.log``."""
        with (self.folder / "driver.log").open("w") as log:
            return subprocess.Popen(
                ["snakemake", "--workflow-profile", "profiles/slurm", *targets],
                cwd=self.folder, env=self.environment(), stdout=log, stderr=log, text=True,
            )  # fmt: skip

    def said(self) -> str:
        return (self.folder / "driver.log").read_text()

    def finish(self, driver: subprocess.Popen[str]) -> None:
        assert driver.wait(timeout=900) == 0, self.said()[-5000:]

    def records(self, rule: str) -> list[Record]:
        paths = sorted((self.folder / "results/records" / rule).glob("*.json"))
        return [Record.model_validate_json(path.read_bytes()) for path in paths]

    def submissions(self) -> list[dict[str, str]]:
        """Slurm's view of every job of this project, oldest first."""
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner"], check=True, capture_output=True, text=True
        ).stdout
        jobs = [
            dict(field.split("=", 1) for field in line.split() if "=" in field)
            for line in shown.splitlines()
        ]
        mine = [job for job in jobs if job.get("WorkDir") == str(self.folder)]
        return sorted(mine, key=lambda job: int(job["JobId"]))

    def submitted(self, rule: str) -> list[dict[str, str]]:
        return [
            job for job in self.submissions() if job.get("Comment", "").startswith(f"rule_{rule}")
        ]

    def wait_for(self, seen: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
        """Wait until a condition holds while a driver is at work."""
        deadline = time.monotonic() + 600
        while not seen():
            assert driver.poll() is None, self.said()[-5000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)


def three_layers() -> dict:
    """One recipe on three layers: three jobs of decomposition that wait for calibration."""
    params = tiny_params()
    params["layer_sets"]["one"] = "all"
    del params["recipes"]["drop"], params["methods"]["drop"]
    return params


@pytest.fixture(scope="module")
def study(
    cluster: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, subprocess.Popen[str]]]:
    """The whole study, begun; calibration is first given too little memory."""

    def edit(profile: dict) -> None:
        profile["group-components"]["decompose"] = 1
        profile["set-resources"] = {"calibrate": {"mem_mb": f"{SMALL_MB} * attempt ** 3"}}

    site = Site.edited(tmp_path_factory.mktemp("study") / "project", three_layers(), edit)
    driver = site.driver()
    yield site, driver
    driver.kill()
    driver.wait()


@pytest.fixture(scope="module")
def poor_site(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that has no GPUs and whose profile retries nothing."""

    def edit(profile: dict) -> None:
        profile["retries"] = 0
        profile["set-resources"] = {rule: {"gpu": 0} for rule in ("calibrate", "decompose")}

    site = Site.edited(tmp_path_factory.mktemp("poor") / "project", tiny_params(), edit)
    # the other way to submit
    generic = ["--workflow-profile", "profiles/cluster-generic"]
    site.snakemake(*generic, "--seconds-between-status-checks", "1", "stage_fetch")
    return site


def test_a_cancelled_job_is_named_and_the_rerun_resumes(
    study: tuple[Site, subprocess.Popen[str]], poor_site: Site
) -> None:
    site = poor_site
    fetched = [job["JobName"].split("-")[1] for job in site.submissions()]
    assert sorted(fetched) == ["fetch_corpus", "fetch_model"]
    driver = site.driver("stage_calibrate")
    site.wait_for(lambda: running(site.submitted("calibrate")), driver)
    (job,) = site.submitted("calibrate")
    subprocess.run(["scancel", job["JobId"]], check=True)
    assert driver.wait(timeout=300) != 0
    assert "Error in rule calibrate" in site.said()
    assert f"'{job['JobId']}' failed, SLURM status is: 'CANCELLED'" in site.said()
    before = began(site, "fetch_model") | began(site, "fetch_corpus")

    site.finish(site.driver("stage_calibrate"))
    assert [job["JobState"] for job in site.submitted("calibrate")] == ["CANCELLED", "COMPLETED"]
    (record,) = site.records("calibrate")
    assert (record.state, record.devices) == ("done", ("cpu",))
    assert record.host in ("cpu01", "cpu02")
    assert began(site, "fetch_model") | began(site, "fetch_corpus") == before


def test_a_killed_driver_loses_nothing_that_was_finished(poor_site: Site) -> None:
    site = poor_site
    site.finish(site.driver("stage_calibrate"))
    calibrated = began(site, "calibrate")
    driver = site.driver("stage_decompose")
    site.wait_for(lambda: any(r.state == "done" for r in site.records("decompose")), driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # what docs/clusters.md tells the user
    run = site.submitted("decompose")[-1]["JobName"]
    subprocess.run(["scancel", "--name", run], check=True)
    while any(job["JobState"] in ("RUNNING", "COMPLETING") for job in site.submissions()):
        time.sleep(0.2)
    done = began(site, "decompose")
    assert len(done) == 1
    site.snakemake("--unlock")

    site.finish(site.driver("stage_decompose"))
    assert {record.devices for record in site.records("decompose")} == {("cpu",)}
    assert began(site, "calibrate") == calibrated
    assert done < began(site, "decompose")
    assert len(began(site, "decompose")) == 2
    assert not list((site.folder / "results").rglob(".partial-*"))


def test_the_study_on_slurm(study: tuple[Site, subprocess.Popen[str]]) -> None:
    site, driver = study
    site.finish(driver)
    assert list((site.folder / "results/reports").glob("*.html"))
    assert site.nothing_to_do()

    # killed by memory, then passed with more
    first, second = site.submitted("calibrate")
    assert first["MinMemoryNode"] == f"{SMALL_MB}M"
    assert second["MinMemoryNode"] == f"{8 * SMALL_MB}M"
    assert first["JobState"] in ("FAILED", "OUT_OF_MEMORY")
    assert second["JobState"] == "COMPLETED"

    # twelve jobs in ten submissions, the retry included
    submitted = Counter(job["Comment"].split("_wildcards_")[0] for job in site.submissions())
    assert submitted == {
        "rule_fetch_model": 1,
        "rule_fetch_corpus_fetch_corpus": 1,
        "rule_calibrate": 2,
        "rule_decompose_decompose": 3,
        "rule_assemble_assemble": 1,
        "rule_evaluate_evaluate": 1,
        "rule_tables_aggregate_report_site": 1,
    }
    # a group asks for one GPU, however many of its jobs do
    for rule in ("fetch_model", "calibrate", "decompose", "evaluate"):
        for job in site.submitted(rule):
            assert (job["Partition"], job["TresPerJob"]) == ("gpu", "gres:gpu:1"), rule
    for rule in ("fetch_corpus", "assemble", "tables"):
        for job in site.submitted(rule):
            assert (job["Partition"], job.get("TresPerJob")) == ("cpu", None), rule

    # jobs that run at the same time hold different devices
    records = site.records("decompose")
    assert [record.state for record in records] == ["done"] * 3
    assert len({(record.host, record.devices) for record in records}) > 1
    for one, other in itertools.combinations(records, 2):
        if one.started < other.ended and other.started < one.ended:
            assert (one.host, one.devices) != (other.host, other.devices)


def began(site: Site, rule: str) -> set[tuple[str, datetime]]:
    """Which jobs of a rule are done and when they began: a job that ran again began later."""
    return {
        (record.name, record.started) for record in site.records(rule) if record.state == "done"
    }


def running(jobs: list[dict[str, str]]) -> bool:
    return any(job["JobState"] == "RUNNING" for job in jobs)
