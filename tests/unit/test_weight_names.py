"""One matrix under several names, and names that differ from those of the running model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.families import loaded
from support.untrusted import fetch, hub, local, update
from support.weights import (
    EMBEDDING,
    HEAD,
    Tensors,
    change,
    compress,
    logits,
    planned,
    reference,
    saved,
    shard,
)

from tensorpress.architectures.families.table import FAMILIES
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.densify import densify
from tensorpress.running.oom import CPU
from tensorpress.sources.weightfiles import SINGLE
from tensorpress.stages.assembly import assemble


def other_head(tensors: Tensors) -> Tensors:
    return {**tensors, HEAD: 1.5 * tensors[EMBEDDING] + 0.1}


@pytest.mark.parametrize(
    ("files", "matrices"),
    [
        (lambda t: t, 1),
        (lambda t: {**t, HEAD: t[EMBEDDING]}, 1),
        (lambda t: {HEAD if name == EMBEDDING else name: value for name, value in t.items()}, 1),
        (other_head, 2),
    ],
    ids=["embedding", "equal", "head", "different"],
)
def test_ties_are_what_config_and_files_say(tmp_path: Path, files, matrices: int) -> None:
    folder = saved("llama", tmp_path / "model", tie_word_embeddings=True)
    expected = reference(change(folder, files))
    target = fetch(local(folder), tmp_path / "fetched")
    tensors = load_file(target / SINGLE)
    assert (HEAD in tensors) == (matrices == 2)
    assert EMBEDDING in tensors
    model = load_model(target, CPU)
    assert torch.equal(logits(model), expected)
    dense_bits = 32 * sum(p.numel() for p in model.parameters())
    plain, _ = assemble(target, [], "float32", tmp_path / "plain")
    assert plain.dense_bits == plain.stored_bits == dense_bits
    assert torch.equal(logits(load_model(tmp_path / "plain", CPU)), expected)
    # of a compressed one, the head is compressed with the embedding only if they are one
    storage = compress(target, "embedding", tmp_path / "compressed")
    assert storage.dense_bits == dense_bits
    torch.testing.assert_close(logits(load_model(tmp_path / "compressed", CPU)), expected)
    densify(tmp_path / "compressed", tmp_path / "dense")
    torch.testing.assert_close(logits(load_model(tmp_path / "dense", CPU)), expected)
    for weights in (folder, target):
        assert planned(weights, "embedding", 32) == (storage.dense_bits, storage.stored_bits)


MASK = torch.tril(torch.ones(1, 1, 64, 64))
BUFFERS = {
    "gpt2": {"h.{}.attn.bias": MASK.bool(), "h.{}.attn.masked_bias": torch.tensor(-1e4)},
    "gptj": {"transformer.h.{}.attn.bias": MASK.byte(),
             "transformer.h.{}.attn.masked_bias": torch.tensor(-1e9)},
    "gpt_neo": {"transformer.h.{}.attn.attention.bias": MASK.byte(),
                "transformer.h.{}.attn.attention.masked_bias": torch.tensor(-1e9)},
    "gpt_neox": {"gpt_neox.layers.{}.attention.bias": MASK.bool(),
                 "gpt_neox.layers.{}.attention.masked_bias": torch.tensor(-1e9),
                 "gpt_neox.layers.{}.attention.rotary_emb.inv_freq": torch.rand(4)},
    "llama": {"model.layers.{}.self_attn.rotary_emb.inv_freq": torch.rand(4)},
}  # fmt: skip


@pytest.mark.parametrize("model_type", sorted(BUFFERS))
def test_masks_and_frequencies_are_no_weights(tmp_path: Path, model_type: str) -> None:
    folder = saved(model_type, tmp_path / "model")
    expected = reference(folder)
    buffers = {
        name.format(layer): value
        for name, value in BUFFERS[model_type].items()
        for layer in range(2)
    }
    change(folder, lambda tensors: {**tensors, **buffers})
    target = fetch(local(folder), tmp_path / "fetched")
    model = load_model(target, CPU)
    assert torch.equal(logits(model), expected)
    storage = compress(target, "ffn", tmp_path / "compressed", rank=3)
    assert storage.dense_bits == 32 * sum(p.numel() for p in model.parameters())
    assert planned(folder, "ffn", 3) == (storage.dense_bits, storage.stored_bits)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_models_saved_from_the_base_class(tmp_path: Path, model_type: str) -> None:
    """GPT-2 as the hub has it, and the like of every family."""
    folder = saved(model_type, tmp_path / "model")
    prefix = loaded(folder).base_model_prefix
    expected = reference(folder)
    change(folder, lambda t: {name.removeprefix(f"{prefix}."): v for name, v in t.items()})
    assert torch.equal(reference(folder), expected)
    target = fetch(local(folder), tmp_path / "fetched")
    assert torch.equal(logits(load_model(target, CPU)), expected)
    group = "experts" if FAMILIES[model_type].experts else "ffn"
    compress(target, group, tmp_path / "compressed")
    found = logits(load_model(tmp_path / "compressed", CPU))
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_files_as_transformers_saves_them_are_copied(tmp_path: Path, model_type: str) -> None:
    folder = saved(model_type, tmp_path / "model")
    before = json.loads((folder / "config.json").read_text())
    target = fetch(local(folder), tmp_path / "fetched")
    assert json.loads((target / "config.json").read_text()) == before
    given, fetched = load_file(folder / SINGLE), load_file(target / SINGLE)
    family = FAMILIES[model_type]
    assert len(given) == len(fetched)
    for name, value in given.items():
        assert torch.equal(fetched.get(name, fetched.get(family.running_name(name))), value)


def test_files_of_the_hub_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No prefix, the head alone, masks, shards, and an index without metadata."""
    folder = saved("gpt2", tmp_path / "model")
    expected = reference(folder)
    names = {"transformer.wte.weight": HEAD}
    change(
        folder,
        lambda tensors: (
            {
                names.get(name, name.removeprefix("transformer.")): value
                for name, value in tensors.items()
            }
            | {"h.0.attn.bias": MASK, "h.1.attn.bias": MASK}
        ),
    )
    update(folder / "config.json", tie_word_embeddings=True)
    target = fetch(hub(shard(folder), "some/model", monkeypatch), tmp_path / "fetched")
    assert torch.equal(logits(load_model(target, CPU)), expected)
    assert "transformer.wte.weight" in Checkpoint.open(target).files
    assert not [name for name in Checkpoint.open(target).files if ".attn.bias" in name]
