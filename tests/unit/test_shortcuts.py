"""SliceGPT with a rotation for every norm: what passes a block by, and who runs it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from support.stages import compress, logits_without_us
from support.transforms import logits, sliced, tiny
from support.workspace import ROOT
from transformers import AutoModelForCausalLM

from tensorpress.architectures.architecture import Architecture
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.meta_model import MetaModel
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.keying import fingerprints
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.transforms import fold_norms, slicegpt

WIDTH = 16


def rows() -> torch.Tensor:
    return torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(1))


def run(folder: Path) -> torch.Tensor:
    ids = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return load_model(folder, CPU, torch.float32)(input_ids=ids).logits


@pytest.mark.parametrize(
    ("model_type", "tied"),
    [("llama", True), ("qwen2_moe", False), ("mixtral", False), ("gpt_oss", False)],
)
def test_nothing_sliced_changes_no_logit(model_type: str, tied: bool, tmp_path: Path) -> None:
    source = tiny(model_type, tmp_path / "source", tie_word_embeddings=tied)
    target = sliced(source, tmp_path / "whole", 32, rows(), "blocks")
    expected = logits(source)
    torch.testing.assert_close(run(target), expected, rtol=1e-4, atol=2e-5 * expected.abs().max())
    made = Checkpoint.open(target)
    turns = made.read(name for name in made.files if ".shortcuts." in name).values()
    assert len(turns) == 2 * made.architecture.layers
    assert all((turn + torch.eye(32)).norm(dim=1).sub(1).abs().max() < 1e-5 for turn in turns)
    assert max(turn.norm() for turn in turns) > 1  # not what a plain model adds


def planned(folder: Path) -> Architecture:
    spec = slicegpt.Spec(transform="slicegpt", width=WIDTH, rotations="blocks")
    return spec.planned(Checkpoint.open(folder).architecture, "models.m")


def test_plain_transformers_runs_what_is_compressed_of_it(tmp_path: Path) -> None:
    source = tiny("llama", tmp_path / "source", tie_word_embeddings=False)
    narrow = sliced(source, tmp_path / "narrow", WIDTH, rows(), "blocks")
    _, _, storage = compress(narrow, "svd", {"rank": WIDTH}, "ffn", tmp_path)
    found = logits_without_us(tmp_path / "out", tmp_path)
    with torch.inference_mode():
        expected = load_model(narrow, CPU)(input_ids=torch.arange(40)[None]).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    values = sum(math.prod(shape) for shape in Checkpoint.open(narrow).shapes().values())
    assert storage.dense_bits == 32 * values
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(narrow, trust_remote_code=False)


def test_shortcuts_are_counted_and_planned(tmp_path: Path) -> None:
    source = tiny("qwen2_moe", tmp_path / "source", tie_word_embeddings=False)
    narrow = sliced(source, tmp_path / "narrow", WIDTH, rows(), "blocks")
    storage, _ = assemble(narrow, [], "float32", tmp_path / "whole", None, source)
    torch.testing.assert_close(run(tmp_path / "whole"), run(narrow))
    foreseen = MetaModel("m", planned(source).config).tensors
    assert foreseen == Checkpoint.open(narrow).shapes()
    assert storage.stored_bits == 32 * sum(map(math.prod, foreseen.values()))
    assert sum(".shortcuts." in name for name in foreseen) == 2 * planned(source).layers


@pytest.mark.parametrize("transform", [slicegpt.Spec, fold_norms.Spec])
def test_what_passes_by_turned_is_not_turned_again(transform: type, tmp_path: Path) -> None:
    source = tiny("llama", tmp_path / "source")
    settings = {"width": WIDTH} if transform is slicegpt.Spec else {}
    again = transform(transform=transform.__module__.rpartition(".")[2], **settings)
    with pytest.raises(TensorpressError, match="what passes its blocks by is turned"):
        again.planned(planned(source), "models.m")


def test_the_class_that_it_brings_is_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse(yaml.safe_load((ROOT / "studies/all-methods.yaml").read_text()))
    before = set(Plan(study).transformed)
    package = shutil.copytree(ROOT / "src/tensorpress", tmp_path / "tensorpress")
    monkeypatch.setattr(fingerprints, "PACKAGE", package)
    edited = package / "formats/shortcuts.py"
    edited.write_text(edited.read_text().replace("more = residual", "more = 2 * residual"))
    stale = before - set(Plan(study).transformed)
    sizes = ("half", "quarter")
    expected = {f"{model}-{size}-blocks" for model in ("dense", "moe") for size in sizes}
    assert {name.rpartition("-")[0] for name in stale} == expected
