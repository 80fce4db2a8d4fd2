"""Faults done to a run, and the comparison of what it ends with to an undisturbed one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from support.workspace import EVERYTHING, Workspace, save_tiny, tiny_llama, tiny_params

MEASURED = ("seconds",)
"""Columns that no two runs share."""
UNKEYED = {"logs", "records", "reports", "site"}
"""Folders of ``results`` that hold times, or pages with random names in them."""
SKIPPED = {".snakemake_timestamp", ".gitignore", "jobs.parquet"}
"""Files that are no results, and the table of what jobs took."""


def every_stage() -> dict:
    """A study with something to do for every stage, of a model of one layer."""
    params = tiny_params()
    methods = {
        "svd": params["methods"]["svd"],
        "advised": {"method": "advised", "saved": 0.1, "group_size": 16, "methods": ["svd"]},
    }
    recipe = {"models": ["tiny"], "layers": ["all"], "tasks": ["heldout"]}
    lora = {
        "train": "adapters",
        "rank": 2, "steps": 2, "batch": 2, "accumulation": 1, "window": 32, "corpus": "train",
        "seeds": [0],
    }  # fmt: skip
    recipes = {
        "lora": recipe | {"steps": [{"modules": ["ffn"], "method": "svd"}], "recover": lora},
        "advised": recipe | {"steps": [{"modules": ["all"], "method": "advised"}]},
    }
    train = {"source": "file", "path": "inputs/train.txt"}
    corpora = {**params["corpora"], "train": train}
    return params | {
        "methods": methods,
        "layer_sets": {"all": "all"},
        "recipes": recipes,
        "corpora": corpora,
    }


JOBS = Counter(
    fetch_model=1,
    fetch_corpus=2,
    calibrate=1,
    options=1,
    advise=1,
    decompose=3,
    assemble=3,
    recover=1,
    evaluate=3,
    aggregate=1,
    report=1,
    site=1,
)
"""Jobs of ``every_stage`` from nothing, by rule."""


def project_of_every_stage(folder: Path) -> Workspace:
    """A project with that study and its inputs."""
    workspace = Workspace.create(folder, every_stage())
    save_tiny(tiny_llama(layers=1), folder / "inputs/tiny")
    lines = (f"In year {i} they told each other many long stories about that" for i in range(100))
    (folder / "inputs/train.txt").write_text("\n".join(lines), encoding="utf-8")
    return workspace


def make_reference(folder: Path) -> None:
    """A project and its undisturbed run."""
    workspace = project_of_every_stage(folder)
    workspace.snakemake("--cores", "1")
    assert finished(workspace) == JOBS


def make_under_dvc(folder: Path) -> None:
    """A project under DVC after a run by Snakemake; its remote lies beside it, or beside a copy."""
    workspace = Workspace.create(folder)
    shutil.rmtree(folder / ".dvc", ignore_errors=True)
    workspace.run("dvc", "init", "-q", "-f")
    workspace.run("dvc", "config", "core.analytics", "false")
    workspace.run("dvc", "remote", "add", "-q", "-d", "local", "../remote")
    workspace.commit("dvc")
    workspace.snakemake()
    assert workspace.ran() == EVERYTHING


def copy_of(reference: Path, folder: Path, *without: str) -> Workspace:
    """A project to do harm to; ``without`` some of its folders."""
    shutil.copytree(reference, folder, symlinks=True)
    for name in without:
        shutil.rmtree(folder / name)
    return Workspace(folder)


def finished(workspace: Workspace) -> Counter[str]:
    """Jobs that came to their end since the last call, by rule."""
    return workspace.ran(to_the_end=True)


def assert_completes(
    workspace: Workspace, reference: Path, jobs: Counter[str], *targets: str
) -> None:
    """A rerun does just ``jobs``, and leaves what the undisturbed run left, bit for bit."""
    finished(workspace)
    workspace.snakemake("--cores", "1", "--", *targets)
    assert finished(workspace) == jobs
    assert_same(workspace, reference)


def assert_same(workspace: Workspace, reference: Path) -> None:
    """The same artifacts with the same content, and nothing else; measured times aside."""
    found, wanted = (_artifacts(folder) for folder in (workspace.folder, reference))
    assert found.keys() == wanted.keys()
    for name, path in found.items():
        if path.suffix == ".parquet":
            table, other = pq.read_table(path), pq.read_table(wanted[name])
            kept = [column for column in other.column_names if column not in MEASURED]
            assert table.select(kept).equals(other.select(kept)), name
        else:
            assert path.read_bytes() == wanted[name].read_bytes(), name
    pages = [sorted(p.name for p in (f / "results/reports").iterdir())
             for f in (workspace.folder, reference)]  # fmt: skip
    assert pages[0] == pages[1]


def _artifacts(folder: Path) -> dict[str, Path]:
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    named = {path.relative_to(folder / "results"): path for path in files}
    return {
        str(name): path
        for name, path in named.items()
        if name.parts[0] not in UNKEYED and name.name not in SKIPPED
        if name.parts[0] != ".fingerprints.json"  # names the folder that it lies in
    }


SIGNAL = "TENSORPRESS_TEST_KILL"
_KILLER = '''
"""Planted by a test: SIGKILL in the middle of saving what an environment variable names."""

import fnmatch
import os
import signal
from pathlib import Path

_replace = os.replace
_wanted, _, _whom = os.environ.get("{SIGNAL}", "").partition(" ")


def replace(source, target, **options):
    if _wanted and fnmatch.fnmatch(str(target), _wanted):
        path = Path(source)
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                os.truncate(file, file.stat().st_size // 2)
        if _whom == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target, **options)


os.replace = replace
'''


def plant_killer(workspace: Workspace) -> None:
    """Let jobs of the project die where ``run_until_killed`` says; no key depends on that."""
    killer = _KILLER.replace("{SIGNAL}", SIGNAL)
    (workspace.folder / "src/sitecustomize.py").write_text(killer)


def run_until_killed(
    workspace: Workspace, rule: str, saving: str, *, with_driver: bool
) -> subprocess.CompletedProcess[str]:
    """Run up to ``rule``; the first job that saves what is like ``saving`` dies with half of it.

    ``with_driver``: Snakemake is killed at that moment too, as when the power goes.
    """
    whom = "group" if with_driver else "job"
    environment = {**workspace.environment(), SIGNAL: f"{saving} {whom}"}
    return subprocess.run(
        ["snakemake", "--cores", "1", "--until", rule], cwd=workspace.folder, env=environment,
        capture_output=True, text=True, start_new_session=True, check=False,
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said; asserts that it failed, and without a traceback."""
    text = done.stdout + done.stderr
    assert done.returncode != 0, text
    assert "Traceback" not in text, text
    return text


def bound_by_modes() -> list[str]:
    """What to put before a command so that modes of files bind it, root or not."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
