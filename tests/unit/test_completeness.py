"""What a checkpoint's files hold is what the model runs with: all of it, once, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.untrusted import fetch, hub, local, refusal, update
from support.weights import (
    EMBEDDING,
    HEAD,
    Tensors,
    change,
    compress,
    logits,
    reference,
    refused,
    saved,
    shard,
    without,
)
from support.workspace import tiny_llama, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.completeness import contents
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.inputs import EmbeddedModel
from tensorpress.sources.weightfiles import INDEX, SINGLE, held_tensors
from tensorpress.stages.fetching import fetch_model


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("llama", EMBEDDING),
        ("llama", HEAD),
        ("llama", "model.norm.weight"),
        ("llama", "model.layers.1.input_layernorm.weight"),
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("qwen2", "model.layers.0.self_attn.k_proj.bias"),
        ("gptj", "lm_head.bias"),
        ("gpt2", "transformer.wpe.weight"),
        ("qwen2_moe", "model.layers.1.mlp.gate.weight"),
        ("qwen2_moe", "model.layers.0.mlp.shared_expert.up_proj.weight"),
        ("qwen3_moe", "model.layers.1.mlp.experts.3.up_proj.weight"),
        ("gpt_oss", "model.layers.0.self_attn.sinks"),
    ],
)
def test_no_weight_is_made_up(tmp_path: Path, model_type: str, name: str) -> None:
    folder = change(saved(model_type, tmp_path / "model"), without(name))
    assert f"models.m: tensor {name} is missing; allowed: files with" in refused(folder, tmp_path)


def test_an_error_names_three_of_many(tmp_path: Path) -> None:
    folder = change(saved("llama", tmp_path / "model"), lambda tensors: {HEAD: tensors[HEAD]})
    assert "tensors model.embed_tokens.weight, model.layers.0.input_layernorm.weight, " in (
        message := refused(folder, tmp_path)
    )
    assert "and 17 more are missing" in message


@pytest.mark.parametrize(
    ("model_type", "old", "new"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"),
        ("llama", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias", "transformer.h.2.attn.c_attn.bias"),
        ("qwen3_moe", "model.layers.0.mlp.experts.3.up_proj.weight",
         "model.layers.0.mlp.experts.4.up_proj.weight"),
    ],
)  # fmt: skip
def test_no_weight_is_left_out(tmp_path: Path, model_type: str, old: str, new: str) -> None:
    folder = change(saved(model_type, tmp_path / "model"), lambda t: {**t, new: t[old]})
    assert f"models.m: tensor {new} has no place in" in refused(folder, tmp_path)


def test_a_weight_under_two_names(tmp_path: Path) -> None:
    both = {"norm.weight": "model.norm.weight"}
    folder = saved("llama", tmp_path / "model")
    change(folder, lambda t: {**t, **{new: t[old] + 1 for new, old in both.items()}})
    assert "norm.weight is there a second time" in refused(folder, tmp_path)
    folder = saved("qwen3_moe", tmp_path / "experts")
    fused = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    name = "model.layers.0.mlp.experts.down_proj"
    change(folder, lambda t: {**t, name: fused[name]})
    message = refused(folder, tmp_path)
    assert "model.layers.0.mlp.experts.0.down_proj.weight is there a second time" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_codes_are_not_taken_for_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    folder = change(saved("llama", tmp_path / "model"), lambda t: {**t, name: t[name].to(dtype)})
    message = refused(folder, tmp_path)
    assert f"models.m: tensor {name} holds numbers of type" in message
    assert message.endswith("allowed: BF16, F16, F32, F64")


@pytest.mark.parametrize("said", [{}, [], False, "gptq"])
def test_any_quantisation_that_a_config_says_is_refused(copy: Path, said: object) -> None:
    """Unless it is one that is read; transformers fails at all but null."""
    update(copy / "config.json", quantization_config=said)
    assert f"quantization_config: weights quantised with {said!r} are not read" in refusal(
        local(copy)
    )


def test_two_sets_of_weights(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = shutil.copy(copy / SINGLE, tmp_path)
    shard(copy)
    shutil.copy(single, copy)
    assert f"models.m.path: {SINGLE} beside {INDEX} is not allowed" in refusal(local(copy))
    with pytest.raises(TensorpressError, match="two sets of weights"):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")
    # an index of that one file is none of another set
    for path in copy.glob("model-*"):
        path.unlink()
    weight_map = dict.fromkeys(load_file(copy / SINGLE), SINGLE)
    (copy / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    target = fetch(local(copy), tmp_path / "single")
    assert not (target / INDEX).exists()


def test_an_index_that_disagrees_with_its_shards(copy: Path, tmp_path: Path) -> None:
    name = "model.norm.weight"
    whole = shutil.copytree(copy, tmp_path / "whole")
    shard(copy, lambda files: {each: files[each] for each in files.keys() - {name}})
    assert f"models.m.path: {INDEX} does not list {name}, which model-" in refusal(local(copy))
    shard(whole, lambda files: {**files, "model.other.weight": "model-0.safetensors"})
    assert "lists model.other.weight, which model-0.safetensors does not" in refusal(local(whole))


def test_an_index_without_metadata(copy: Path, tmp_path: Path) -> None:
    expected = reference(copy)
    target = fetch(local(shard(copy)), tmp_path / "fetched")
    assert torch.equal(logits(load_model(target, CPU)), expected)
    written = json.loads((target / INDEX).read_text())
    files = {path.name: path.stat().st_size for path in target.glob("*.safetensors")}
    assert written["metadata"] == {"total_size": sum(files.values())}
    assert set(written["weight_map"].values()) == set(files)


def test_a_shard_of_another_length(copy: Path) -> None:
    data = (copy / SINGLE).read_bytes()
    for content in (data[:4], data[:200], data[:-1], data + b"0"):
        (copy / SINGLE).write_bytes(content)
        with pytest.raises(DamagedFile, match=r"model\.safetensors: damaged"):
            fetch(local(copy), copy.parent / "fetched")


def test_nan_is_reported_of_the_users_file(copy: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(copy, lambda t: {**t, name: t[name].fill_(float("nan"))})
    assert refused(copy, tmp_path) == f"{copy}: tensor {name} has NaN or infinite values"


def test_a_bias_named_like_a_mask_is_a_weight(copy: Path, tmp_path: Path) -> None:
    name = "model.layers.0.attention.bias"
    change(copy, lambda tensors: {**tensors, name: torch.randn(32)})
    assert f"models.m: tensor {name} has no place in LlamaForCausalLM" in refused(copy, tmp_path)


def test_embedded_models_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_llama()
    trained = (network, tiny_tokenizer(), {})
    monkeypatch.setattr("tensorpress.sources.embedded.training.train", lambda *_: trained)
    spec = EmbeddedModel(source="embedded", name="dense")
    fetch_model("m", spec, tmp_path / "whole", CPU)
    assert torch.equal(logits(load_model(tmp_path / "whole", CPU)), logits(network.eval()))
    network.lm_head.bias = torch.nn.Parameter(torch.zeros(300))
    with pytest.raises(TensorpressError, match=r"tensor lm_head\.bias has no place in Llama"):
        fetch_model("m", spec, tmp_path / "biased", CPU)


def test_a_module_that_a_model_uses_twice_is_stored_once(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    once = "model.layers.1.mlp."
    change(folder, lambda t: {name: t[name] for name in t if not name.startswith(once)})
    stored, architecture = held_tensors(folder, "test"), Checkpoint.open(folder).architecture
    with pytest.raises(TensorpressError, match=f"tensors {once}down_proj.weight, .* are missing"):
        contents("m", model, architecture, stored)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    assert contents("m", model, architecture, stored).tensors == stored


def test_a_config_that_no_model_can_be_built_from(copy: Path, tmp_path: Path) -> None:
    update(copy / "config.json", hidden_act="no such thing")
    message = refused(copy, tmp_path)
    assert message.startswith("models.m: LlamaForCausalLM cannot be built from config.json (")


def test_a_value_of_a_config_is_not_put_down_to_the_tokenizer(copy: Path, tmp_path: Path) -> None:
    """The tokenizer is read first, and transformers reads the config for it."""
    update(copy / "config.json", rms_norm_eps=None)
    said = r"models\.m: config\.json is not allowed \(.*'rms_norm_eps' expected float, got None.*"
    message = refused(copy, tmp_path)
    assert re.fullmatch(rf"{said}\); allowed: values that transformers reads", message)


def test_every_load_reads_the_report(copy: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    compress(copy, "attention", tmp_path / "compressed", rank=4)
    for folder in (copy, tmp_path / "compressed"):
        whole = load_file(folder / SINGLE)
        for tensors, said in (
            ({**whole, name: whole[name][:5]}, f"{name} is of another shape"),
            ({each: whole[each] for each in whole.keys() - {name}}, f"{name} is missing"),
            ({**whole, "model.more.weight": whole[name].clone()}, "model.more.weight is left over"),
        ):
            save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
            with pytest.raises(TensorpressError, match=said):
                load_model(folder, CPU)
    own = type(load_model_of(tmp_path / "compressed", whole))
    change(tmp_path / "compressed", without(name))
    with pytest.raises(ValueError, match=f"{name} is missing"):
        own.from_pretrained(tmp_path / "compressed")


def load_model_of(folder: Path, tensors: Tensors) -> PreTrainedModel:
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return load_model(folder, CPU)
