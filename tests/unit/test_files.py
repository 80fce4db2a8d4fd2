"""Checkpoints, factor files, rows and pins: what is written is what is read."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file, save_file
from support.workspace import ROOT

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.checkpoints.checkpoint import INDEX, Checkpoint
from tensorpress.checkpoints.factorfile import load_factors, save_factors
from tensorpress.checkpoints.rows import (
    DecompositionRow,
    EvalRow,
    ResultRow,
    read_rows,
    schema,
    write_rows,
)
from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.methods.svd import Spec, decompose
from tensorpress.running.oom import CPU
from tensorpress.sources.contents import corpus_source
from tensorpress.sources.corpora import fetch_corpus
from tensorpress.sources.inputs import FileCorpus, LocalModel
from tensorpress.stages.fetching import fetch_model


def shard(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, directory / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def fetch(directory: Path, target: Path) -> None:
    fetch_model("m", LocalModel(source="local", path=str(directory)), target, CPU)


def test_shards_read_like_one_file(copy: Path, tmp_path: Path) -> None:
    shape = Checkpoint.open(copy).architecture.shape(1)
    before = Checkpoint.open(copy).weights(1, shape.modules)
    shard(copy)
    after = Checkpoint.open(copy).weights(1, shape.modules)
    assert all(torch.equal(before[name], after[name]) for name in before)
    fetch(copy, tmp_path / "fetched")
    assert len(Checkpoint.open(tmp_path / "fetched").files) == 2 + 1 + 3 * 9


def test_missing_shard(copy: Path, tmp_path: Path) -> None:
    shard(copy)
    (copy / "b.safetensors").unlink()
    with pytest.raises(TensorpressError, match=r"b\.safetensors: damaged \(missing"):
        fetch(copy, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_nan_weights(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"layers\.1\.mlp\.up_proj\.weight has NaN"):
        fetch(copy, tmp_path / "fetched")


def test_truncated_file(copy: Path, tmp_path: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(TensorpressError, match=r"model\.safetensors: damaged"):
        fetch(copy, tmp_path / "fetched")


def test_missing_tensor_and_wrong_shape(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    up = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"up_proj\.weight is missing"):
        fetch(copy, tmp_path / "fetched")
    save_file({**tensors, "model.layers.1.mlp.up_proj.weight": up[:5]}, copy / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"has shape \(5, 32\), config.json says \(48, 32\)"):
        fetch(copy, tmp_path / "fetched")


def test_pickle_only_checkpoint_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(TensorpressError, match=r"pytorch_model\.bin is not allowed"):
        fetch(copy, tmp_path / "fetched")


def test_fused_and_per_expert_names_read_alike(moe_directory: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(moe_directory)
    shape = checkpoint.architecture.shape(0)
    before = checkpoint.weights(0, shape.group("experts"))
    assert before["experts.gate"].shape == (4, 24, 32)
    tensors = load_file(moe_directory / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "layers.0.mlp.experts" not in n}
    path = checkpoint.architecture.family.experts_path(0)
    kept[f"{path}.gate_up_proj"] = torch.cat([before["experts.gate"], before["experts.up"]], dim=1)
    kept[f"{path}.down_proj"] = before["experts.down"]
    save_file(kept, tmp_path / "model.safetensors")
    shutil.copy(moe_directory / "config.json", tmp_path)
    fused = Checkpoint.open(tmp_path)
    assert f"{path}.gate_up_proj" in fused.files
    after = fused.weights(0, shape.group("experts"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_factor_files(tmp_path: Path) -> None:
    weights = {"ffn.up": torch.randn(12, 8), "ffn.gate": torch.randn(12, 8)}
    shape = LayerShape(8, 1, 1, 8, {module: ModuleShape(12, 8) for module in weights})
    factors = decompose(weights, shape, Spec(method="svd", rank=3), None)
    save_factors(factors, tmp_path / "f.safetensors")
    (loaded,) = load_factors(tmp_path / "f.safetensors", ("ffn.gate",))
    assert loaded.modules == ("ffn.gate",)
    assert torch.equal(loaded.store.dense(0), factors[0].store.dense(0))
    whole = (tmp_path / "f.safetensors").read_bytes()
    for place in (9, whole.index(b"stores") + 60, len(whole) - 1):
        flipped = bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]])
        for content in (whole[:place], flipped):
            (tmp_path / "f.safetensors").write_bytes(content)
            with pytest.raises(DamagedFile, match=r"f\.safetensors: damaged"):
                load_factors(tmp_path / "f.safetensors")


def test_rows_keep_types_and_gaps(tmp_path: Path) -> None:
    rows = [
        EvalRow(metric="perplexity", value=4.5, stderr=0.1, samples=10, version="v"),
        EvalRow(metric="bits_per_byte", value=1.0, layer=3, module="ffn.up"),
    ]
    write_rows(rows, EvalRow, tmp_path / "r.parquet")
    assert read_rows([tmp_path / "r.parquet"], EvalRow) == rows
    write_rows([], EvalRow, tmp_path / "empty.parquet")
    assert pq.read_schema(tmp_path / "empty.parquet").equals(schema(EvalRow))


def test_documented_columns_are_those_of_the_tables() -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([a-z_]+)`", text))
    words |= {
        f"bits_saved_{d}_percent"
        for d in ("modules", "blocks", "without_embeddings", "with_embeddings")
    }
    for row_type in (ResultRow, DecompositionRow):
        assert set(schema(row_type).names) <= words


def test_corpus_files(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TensorpressError, match=r"corpora\.c\.path: .* is not UTF-8"):
        fetch_corpus("c", FileCorpus(source="file", path=str(tmp_path / "bad.txt")), tmp_path / "o")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(TensorpressError, match="the text is empty"):
        fetch_corpus(
            "c", FileCorpus(source="file", path=str(tmp_path / "empty.txt")), tmp_path / "o"
        )


def test_a_file_that_is_no_text_stops_the_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = FileCorpus(source="file", path="text.txt")
    file = Path(corpus.path)
    for content, message in (
        (b"caf\xe9", "is not UTF-8"),
        (b"\xef\xbb\xbf \n", "is empty; allowed"),
    ):
        file.write_bytes(content)
        with pytest.raises(TensorpressError, match=rf"^corpora\.c\.path: text\.txt {message}"):
            corpus_source("c", corpus)
    file.write_text("A text.")
    assert corpus_source("c", corpus)["source"] == "file"
    assert not (tmp_path / "o").exists()


def test_the_lock_has_a_version_of_every_dependency_within_its_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = [Requirement(line) for line in lines if not line.startswith("#")]
    versions: dict[str, list[str]] = {}
    for entry in locked:
        (exact,) = entry.specifier
        assert exact.operator == "==", entry
        versions.setdefault(canonicalize_name(entry.name), []).append(exact.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *itertools.chain(*project["optional-dependencies"].values()),
    ]
    ranges = [r for r in map(Requirement, wanted) if r.name != project["name"]]
    assert ranges
    for wanted_range in ranges:
        bounds = {bound.operator for bound in wanted_range.specifier}
        assert bounds == {">=", "<"}, wanted_range
        for version in versions[canonicalize_name(wanted_range.name)]:
            assert wanted_range.specifier.contains(version), (wanted_range, version)


def test_make_and_conda_install_what_the_lock_says() -> None:
    installs = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line
    ]
    project = [line for line in installs if "uv" not in line and "--upgrade pip" not in line]
    assert len(project) == 2
    assert all("--constraint requirements.lock" in line for line in project)
    (file,) = (ROOT / "envs").glob("*.yaml")
    wanted = yaml.safe_load(file.read_text())["dependencies"]
    (pip,) = (entry["pip"] for entry in wanted if isinstance(entry, dict))
    # seen from .snakemake/conda, where Snakemake copies the file
    assert pip == ["-c ../../requirements.lock", "-e ../.."]
    rules = [path.read_text() for path in (ROOT / "rules").glob("*.smk")]
    assert set(re.findall(r'"\.\./envs/(.+)"', "".join(rules))) == {file.name}
