"""Weights are read from safetensors of the model's folder: no pickles, no ways out, no adapters."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from support.untrusted import fetch, hub, local, refusal
from support.workspace import ROOT
from transformers import LlamaForCausalLM

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.stages.fetching import fetch_model


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_pickles_are_refused_unopened_with_advice_that_works(
    copy: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = LlamaForCausalLM.from_pretrained(copy).state_dict()
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(marker)))
    message = refusal(local(copy))
    assert "models.m.path: pytorch_model.bin is not allowed" in message
    with pytest.raises(TensorpressError, match=r"bin is not allowed"):
        fetch_model("m", local(copy), tmp_path / "fetched", CPU)
    assert not marker.exists()
    torch.save(weights, copy / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    exec(message.partition(' -c "')[2].removesuffix('"'), {})
    converted = load_model(fetch(local(tmp_path / "model-safetensors"), tmp_path / "f"), CPU)
    assert all(torch.equal(value, weights[name]) for name, value in converted.state_dict().items())


def test_nothing_of_ours_opens_pickles_but_what_our_processes_say_to_each_other() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    opens = re.compile(r"\bimport pickle|\bfrom pickle|pickle\.load")
    found = {name for name, text in texts.items() if opens.search(text)}
    assert found == {"forkserver.py", "request.py", "peak_memory.py"}
    text = "".join(texts.values()).replace("pickle.load(sys.stdin.buffer)", "")
    assert "from_pretrained(" in text
    assert not re.search(r"pickle\.load\(|torch\.load|np\.load|allow_pickle", text)


def test_pickles_of_the_hub(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(TensorpressError, match=r"models\.m\.repository: pytorch_model\.bin is not"):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_may_not_lead_out(copy: Path, tmp_path: Path, shard: str) -> None:
    shutil.copy(copy / "model.safetensors", tmp_path / "secret.safetensors")
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": shard}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{shard!r} is not allowed" in refusal(local(copy))
    with pytest.raises(TensorpressError, match="is not allowed"):
        Checkpoint.open(copy)


def test_weights_that_are_missing_or_cut_stop_the_planning(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert refusal(local(copy)).endswith("damaged (its length is not what its header says)")
    weights.unlink()
    assert "models.m.path: " in refusal(local(copy))
    assert "has neither model.safetensors nor" in refusal(local(copy))


def test_adapters_are_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    assert "adapter_config.json is not allowed" in refusal(local(copy))
