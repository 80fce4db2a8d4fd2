"""Compressed checkpoints: they run in factored form, equal the dense rebuild, and are small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.stages import compress, logits_without_us
from transformers import AutoModelForCausalLM

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import load_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.formats.modules import FactoredExperts, FactoredLinear
from tensorpress.planning.artifacts import FactorPlacement
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble

LLAMA_CASES = [
    ("dense", {}, "ffn"),
    ("drop", {}, "attention"),
    ("svd", {"rank": 5}, "attention"),
    ("tt", {"order": 3, "rank": 4}, "ffn"),
    ("tucker_qkvo", {"ranks": {"hidden": 12, "head_dim": 4, "stack": 2}}, "attention"),
    ("tucker_ffn", {"ranks": {"out": 16, "in": 12}}, "ffn"),
]
MOE_CASES = [
    ("dense", {}, "experts"),
    ("drop", {}, "experts"),
    ("svd", {"rank": 5}, "experts"),
    ("tt", {"order": 3, "rank": 4}, "experts"),
    ("td_moe", {"ratio": 0.3}, "experts"),
    ("td_moe", {"ratio": 0.3, "experts": "compress"}, "experts"),
    ("svd", {"rank": 5}, "attention"),
]


def dense_twin(model: Path, placement: FactorPlacement) -> torch.nn.Module:
    """The plain model with the rebuilt weights put in place."""
    family = Checkpoint.open(model).architecture.family
    twin = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for stored in load_factors(placement.factors, placement.modules):
            for index, module in enumerate(stored.modules):
                if module.startswith("experts"):
                    experts = twin.get_submodule(family.experts_path(placement.layer))
                    view = family.expert_weights(experts)[module]
                    for e in range(view.shape[0]):
                        view[e] = stored.store.dense(e)
                else:
                    linear = twin.get_submodule(family.linear_path(placement.layer, module))
                    linear.weight.copy_(stored.store.dense(index))
    return twin.eval()


def check(model: Path, method: str, settings: dict, group: str, folder: Path, modules=None):
    _, placement, storage = compress(model, method, settings, group, folder, modules)
    ours = load_model(folder / "out", CPU)
    kinds = [type(m) for m in ours.modules()]
    assert FactoredLinear in kinds or FactoredExperts in kinds
    ids = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = dense_twin(model, placement)(input_ids=ids).logits
        found = ours(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    overhead = storage.checkpoint_bytes - storage.stored_bits / 8
    assert 0 < overhead < 20_000  # the header of the container
    return storage


@pytest.mark.parametrize(("method", "settings", "group"), LLAMA_CASES)
def test_llama(llama_directory: Path, tmp_path: Path, method, settings, group) -> None:
    storage = check(llama_directory, method, settings, group, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(llama_directory)
    assert storage.dense_bits == 32 * sum(p.numel() for p in whole.parameters())
    assert (storage.bits_saved_with_embeddings_percent > 0) == (method != "dense")
    assert storage.bits_saved_modules_percent >= storage.bits_saved_blocks_percent
    assert (
        storage.bits_saved_without_embeddings_percent >= storage.bits_saved_with_embeddings_percent
    )


@pytest.mark.parametrize(("method", "settings", "group"), MOE_CASES)
def test_moe(moe_directory: Path, tmp_path: Path, method, settings, group) -> None:
    storage = check(moe_directory, method, settings, group, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(moe_directory)
    assert storage.dense_bits == 32 * sum(p.numel() for p in whole.parameters())


def test_single_modules(llama_directory: Path, moe_directory: Path, tmp_path: Path) -> None:
    one = {"method": "svd", "settings": {"rank": 4}}
    check(llama_directory, **one, group="ffn", folder=tmp_path / "a", modules=("ffn.down",))
    check(moe_directory, **one, group="experts", folder=tmp_path / "b", modules=("experts.up",))


def test_baseline_is_the_plain_model_in_the_storage_dtype(
    llama_directory: Path, tmp_path: Path
) -> None:
    storage, _ = assemble(llama_directory, [], "bfloat16", tmp_path / "out")
    assert storage.bits_saved_with_embeddings_percent == 0
    assert storage.stored_bits == storage.dense_bits
    plain = AutoModelForCausalLM.from_pretrained(llama_directory)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, value in plain.state_dict().items():
        assert torch.equal(stored.state_dict()[name], value.bfloat16().float())


def test_loads_with_transformers_and_bundled_code_alone(
    moe_directory: Path, tmp_path: Path
) -> None:
    compress(moe_directory, "td_moe", {"ratio": 0.3}, "experts", tmp_path)
    found = logits_without_us(tmp_path / "out", tmp_path)
    ours = load_model(tmp_path / "out", CPU)
    with torch.inference_mode():
        expected = ours(input_ids=torch.arange(40)[None]).logits
    torch.testing.assert_close(found, expected)


def test_a_plain_loader_cannot_mistake_it(llama_directory: Path, tmp_path: Path) -> None:
    compress(llama_directory, "svd", {"rank": 4}, "ffn", tmp_path)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "tensorpress_llama"


def test_shards_and_index(llama_directory: Path, tmp_path: Path, monkeypatch) -> None:
    import tensorpress.checkpoints.shards as module

    monkeypatch.setattr(module, "SHARD_BYTES", 20_000)
    assemble(llama_directory, [], "float32", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    plain = AutoModelForCausalLM.from_pretrained(llama_directory)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
