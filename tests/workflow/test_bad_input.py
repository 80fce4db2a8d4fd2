"""What a user sees when something is wrong: one line, no traceback, earlier artifacts kept."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.workspace import Workspace, tiny_params


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-3000:]
    return text


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.create(tmp_path_factory.mktemp("bad") / "project")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rank: 8", "rank: 0", "params.yaml: methods.svd.rank: 0 is not allowed"),
        ("rank: 8", "rank: 800", "methods.svd.rank: 800 is above the limit at ffn.gate"),
        ("middle: 1", "middle: 9", "layer_sets.one.middle: 9 is not allowed; allowed: 1 to 2"),
        ("- ffn", "- experts", "'experts' is not in model 'tiny'"),
        ("kind: perplexity", "kind: perplexed", "tasks.heldout.kind: 'perplexed'"),
        (
            "recipes:\n  svd:",
            "recipes:\n  no:",
            "params.yaml: recipes: the name no is read by YAML",
        ),
    ],
)
def test_wrong_params_stop_both_tools_before_any_job(
    shared_workspace: Workspace, old: str, new: str, message: str
) -> None:
    path = shared_workspace.folder / "params.yaml"
    before = path.read_text()
    shared_workspace.edit("params.yaml", old, new)
    try:
        for command in (
            ["snakemake", "--cores", "1"],
            ["dvc", "repro"],
            ["tensorpress", "check"],
        ):
            text = said(shared_workspace.run(*command, check=False))
            lines = [line for line in text.splitlines() if message in line]
            assert lines, text[-2000:]
        assert not (shared_workspace.folder / "results/fetch").exists()
    finally:
        path.write_text(before)


def test_a_name_that_yaml_changes_is_refused_in_every_file_that_snakemake_merges(
    shared_workspace: Workspace,
) -> None:
    folder = shared_workspace.folder / "studies"
    text = (shared_workspace.folder / "params.yaml").read_text()
    (folder / "twice.yaml").write_text(text + "recipes: {}\n")
    done = shared_workspace.snakemake("-n", "--configfile", "studies/twice.yaml", check=False)
    assert "studies/twice.yaml: the file: the key 'recipes' stands in line" in said(done)
    (folder / "lora.yaml").write_text("recipes: {svd: {recover: {train: factors, corpus: off}}}\n")
    files = ("params.yaml", "studies/lora.yaml")
    done = shared_workspace.snakemake("-n", "--configfile", *files, check=False)
    message = (
        "studies/lora.yaml: recipes.svd.recover.corpus: off is read by YAML as false; allowed: a"
    )
    assert message in said(done)


def test_unknown_config_override_and_dvc_set_are_checked(shared_workspace: Workspace) -> None:
    done = shared_workspace.snakemake("--config", "storage={dtype: int3}", check=False)
    assert "params.yaml: storage.dtype: 'int3' is not allowed" in said(done)


def test_nan_weights_stop_the_fetch_and_a_repaired_model_goes_on(workspace: Workspace) -> None:
    file = workspace.folder / "inputs/tiny/model.safetensors"
    good = load_file(file)
    bad = {name: tensor.clone() for name, tensor in good.items()}
    bad["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(bad, file)
    text = said(workspace.snakemake("--keep-going", check=False))
    assert "tensor model.layers.0.mlp.up_proj.weight has NaN" in text
    assert not list((workspace.folder / "results/fetch").glob("tiny*"))
    assert list((workspace.folder / "results/fetch").glob("text*"))  # what was computed stays
    save_file(good, file)
    workspace.ran()
    workspace.snakemake()
    assert "fetch_corpus" not in workspace.ran()


def test_corpus_too_short_for_one_window(workspace: Workspace) -> None:
    (workspace.folder / "inputs/text.txt").write_text("Too short a text.")
    text = said(workspace.snakemake(check=False))
    said_by = r"tensorpress: (evaluate tiny-baseline-heldout|calibrate tiny)-\w+: "
    assert re.search(rf"{said_by}the corpus has \d+ tokens, too few for one window of 64", text)


def test_query_says_what_is_missing_and_what_exists(shared_workspace: Workspace) -> None:
    text = said(shared_workspace.run("tensorpress", "query", "pareto", check=False))
    assert "run snakemake or dvc pull first" in text
    text = said(shared_workspace.run("tensorpress", "query", "nope", check=False))
    assert "query: 'nope' is not allowed; allowed: ahead, allocation, baseline" in text


def test_record_before_a_run_is_refused(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "project", tiny_params())
    shutil.rmtree(workspace.folder / "results", ignore_errors=True)
    text = said(workspace.run("tensorpress", "record", check=False))
    assert "artifacts are missing" in text
