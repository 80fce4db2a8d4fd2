"""kill -9 in the middle of every stage's work, with and without Snakemake itself."""

from __future__ import annotations

import base64
import shutil
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from support.faults import (
    JOBS,
    assert_completes,
    finished,
    plant_killer,
    run_until_killed,
)
from support.workspace import Workspace

KILLS = {
    "fetch_model": ("results/fetch/tiny-*", "job"),
    "fetch_corpus": ("results/fetch/text-*", "job"),
    "calibrate": ("results/calibrate/*", "driver"),
    "options": ("results/advise/*/layer-000.json", "job"),
    "advise": ("results/advise/*.json", "job"),
    # of two outputs the second: the first is whole by then
    "decompose": ("results/decompose/*.parquet", "driver"),
    "assemble": ("results/assemble/*.parquet", "driver"),
    # the first of two
    "recover": ("results/recover/*[0-9a-f]", "job"),
    "evaluate": ("results/evaluate/*", "job"),
    "aggregate": ("results/aggregate/*/decompositions.parquet", "driver"),
    "report": ("results/reports/*", "job"),
    "site": ("results/site/*", "job"),
}
"""By rule, what is half saved when the kill comes, and what is killed."""


def half_saved(workspace: Workspace, saving: str) -> Iterator[Path]:
    """Artifacts like ``saving`` of which half lies beside, under the name of what is not whole."""
    for half in (workspace.folder / "results").rglob(".partial-*"):
        whole = half.with_name(half.name.split("-", 2)[2])
        if fnmatch(str(whole.relative_to(workspace.folder)), saving):
            yield whole


def test_a_kill_at_every_stage(bare: Workspace, reference: Path) -> None:
    plant_killer(bare)
    done: Counter[str] = Counter()
    for rule, (saving, whom) in KILLS.items():
        killed = run_until_killed(bare, rule, saving, with_driver=whom == "driver")
        assert killed.returncode != 0
        done += finished(bare)
        assert list(half_saved(bare, saving))
        assert not any(whole.exists() for whole in half_saved(bare, saving))
        if whom == "driver":
            refused = bare.snakemake(check=False)
            assert "cannot be locked" in refused.stderr
            bare.snakemake("--unlock")
    assert_completes(bare, reference, JOBS - done)
    assert bare.nothing_to_do()


def test_a_whole_file_that_a_killed_driver_had_marked_hides_nothing(
    done: Workspace, reference: Path
) -> None:
    """The job outlives Snakemake and finishes; what nobody began is begun by the next run."""
    (factors,) = done.folder.glob("results/decompose/tiny-svd-*/*.parquet")
    marker = base64.b64encode(str(factors.relative_to(done.folder)).encode()).decode()
    (done.folder / ".snakemake/incomplete" / marker).touch()
    shutil.rmtree(done.folder / "results/reports")
    assert_completes(done, reference, Counter(report=1, site=1))
    assert done.nothing_to_do()


def test_forcing_a_job_does_not_hide_what_is_missing(done: Workspace, reference: Path) -> None:
    shutil.rmtree(done.folder / "results/reports")
    forced = done.snakemake("--forcerun", "fetch_corpus", check=False)
    assert forced.returncode != 0
    assert "is still missing (of 1 files): run the same command again" in forced.stderr
    assert_completes(done, reference, Counter(report=1, site=1))


def test_a_kill_between_two_outputs_without_snakemakes_memory(
    done: Workspace, reference: Path
) -> None:
    """Without ``.snakemake``, as after a clone: the last output of a job says that it is whole."""
    shutil.rmtree(done.folder / ".snakemake")
    results = done.folder / "results"
    for rows in ("decompose/tiny-svd-*/*.parquet", "assemble/tiny-svd-*.parquet",
                 "recover/*.parquet", "aggregate/*/decompositions.parquet"):  # fmt: skip
        (path,) = results.glob(rows)
        path.unlink()
    made = Counter(decompose=1, assemble=1, recover=1, aggregate=1, report=1, site=1)
    assert_completes(done, reference, made)
