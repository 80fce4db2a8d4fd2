"""Files cut short and bits that flipped: what is ours is made anew, what is the user's is named."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from support.faults import assert_completes, assert_same, bound_by_modes, one_line
from support.workspace import Workspace

from tensorpress.files import paths


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path, place: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def lose(workspace: Workspace, *artifacts: Path) -> list[str]:
    """Remove what jobs are to make again; returns it as targets."""
    for path in artifacts:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [str(path.relative_to(workspace.folder)) for path in artifacts]


def test_a_cut_shard_of_the_user_is_named_and_left_alone(done: Workspace, reference: Path) -> None:
    shard = done.folder / "inputs/tiny/model.safetensors"
    whole = shard.read_bytes()
    cut(shard)
    said = one_line(done.snakemake("--", "stage_calibrate", check=False))
    assert "inputs/tiny/model.safetensors: damaged" in said
    assert shard.read_bytes() == whole[:-100]
    shard.write_bytes(whole)
    assert_completes(done, reference, Counter())


def test_damaged_factors_moments_and_checkpoints(done: Workspace, reference: Path) -> None:
    """Each is named by the job that meets it, and made anew with that job, and nothing else."""
    results = done.folder / "results"
    damaged = {
        "assemble": only(results, "decompose/tiny-svd-*/layer-000.safetensors"),
        "options": only(results, "calibrate/tiny-*/layer-000.safetensors"),
        "evaluate": only(results, "assemble/tiny-baseline-*[0-9a-f]/model.safetensors"),
    }
    flip(damaged["assemble"])
    flip(damaged["options"], 5000)
    cut(damaged["evaluate"])
    patterns = (
        "assemble/tiny-svd-*[0-9a-f]",
        "advise/*/layer-000.json",
        "evaluate/tiny-baseline-*",
    )
    meet = [only(results, pattern) for pattern in patterns]
    targets = lose(done, *meet)
    said = one_line(done.snakemake("--keep-going", "--", *targets, check=False))
    for rule, file in damaged.items():
        named = file.relative_to(done.folder)
        (line,) = (line for line in said.splitlines() if line.startswith(f"tensorpress: {rule} "))
        assert f": {named}: damaged" in line
        assert not file.exists()
    made = Counter(decompose=1, assemble=2, calibrate=1, options=1, evaluate=1)
    assert_completes(done, reference, made, *targets)


@pytest.mark.parametrize(
    ("damaged", "met_by", "made"),
    [
        (
            "fetch/tiny-*/model.safetensors",
            "calibrate/tiny-*",
            Counter(fetch_model=1, calibrate=1),
        ),
        (
            "evaluate/tiny-advised-*",
            "aggregate/*/*results.parquet",
            Counter(evaluate=1, aggregate=1),
        ),
    ],
)
def test_a_damaged_model_or_row(
    done: Workspace, reference: Path, damaged: str, met_by: str, made: Counter[str]
) -> None:
    file = only(done.folder / "results", damaged)
    cut(file)
    targets = lose(done, only(done.folder / "results", met_by))
    said = one_line(done.snakemake("--", *targets, check=False))
    assert f"{file.relative_to(done.folder)}: damaged" in said
    assert not file.exists()
    assert_completes(done, reference, made, *targets)


@pytest.mark.skipif(
    bool(bound_by_modes()) and shutil.which("setpriv") is None, reason="root, and no setpriv"
)
def test_a_damaged_artifact_of_hard_links_to_read_only_files(
    done: Workspace, reference: Path
) -> None:
    """As DVC leaves results: what is remade is not written through to its cache."""
    results, cache = done.folder / "results", done.folder / "cache"
    flip(only(results, "decompose/tiny-svd-*/layer-000.safetensors"))
    for stage in (each for each in paths.STAGES if (results / each).is_dir()):
        shutil.copytree(results / stage, cache / stage, copy_function=os.link)
    held = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for file in held:
        file.chmod(0o444)
    targets = lose(done, *results.glob("assemble/tiny-svd-*"))
    command = [*bound_by_modes(), "snakemake", "--cores", "1", "--", *targets]
    assert "damaged" in one_line(done.run(*command, check=False))
    done.run(*command)
    assert_same(done, reference)
    assert all(path.read_bytes() == content for path, content in held.items())
