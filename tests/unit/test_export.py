"""Rounded checkpoints in compressed-tensors: transformers alone, and this project, read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.stages import FFN, LAYER, make
from support.untrusted import fetch, local
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.export import export
from tensorpress.config.params import Rounding
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU

IDS = torch.arange(40)[None]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("method", "settings", "rounding"),
    [
        ("gptq", {"bits": 4, "group_size": 16}, None),
        ("gptq", {"bits": 8, "group_size": None}, None),
        ("dense", {}, Rounding(bits=3, group_size=16)),
        ("dense", {}, Rounding(bits=8)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_exported_model_is_the_compressed_one(
    llama_directory: Path, tmp_path: Path, method, settings, rounding, dtype: str
) -> None:
    made = make(llama_directory, method, settings, FFN, tmp_path, rounding, dtype)
    assert export(made.target, tmp_path / "served") == (3, 0)
    expected = logits(load_model(made.target, CPU))
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "served", dtype="float32")
    torch.testing.assert_close(logits(served), expected, atol=2e-5, rtol=1e-4)
    # and its codes are read back as a checkpoint that came from elsewhere
    again = fetch(local(tmp_path / "served"), tmp_path / "fetched")
    torch.testing.assert_close(logits(load_model(again, CPU)), expected, atol=2e-5, rtol=1e-4)


def test_codes_take_their_bits(llama_directory: Path, tmp_path: Path) -> None:
    made = make(llama_directory, "dense", {}, FFN, tmp_path, Rounding(bits=4, group_size=16))
    export(made.target, tmp_path / "served")
    from safetensors.torch import load_file

    held = load_file(tmp_path / "served/model.safetensors")
    name = f"model.layers.{LAYER}.mlp.up_proj"
    assert f"{name}.weight" not in held
    assert held[f"{name}.weight_packed"].nbytes == 48 * 32 // 2
    assert held[f"{name}.weight_scale"].shape == (48, 2)
    config = json.loads((tmp_path / "served/config.json").read_text())
    (scheme,) = config["quantization_config"]["config_groups"].values()
    assert name in scheme["targets"]
    assert config["model_type"] == "llama"
    assert "tensorpress" not in config


def test_fused_parts_rounded_alike_are_one_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "phi3", vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "phi3")
    modules = ("attention.q", "attention.k", "attention.v")
    made = make(tmp_path / "phi3", "dense", {}, modules, tmp_path, Rounding(bits=4, group_size=16))
    assert export(made.target, tmp_path / "served") == (1, 0)
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "served", dtype="float32")
    expected = logits(load_model(made.target, CPU))
    torch.testing.assert_close(logits(served), expected, atol=2e-5, rtol=1e-4)


def test_nothing_to_pack_is_said(llama_directory: Path, tmp_path: Path) -> None:
    made = make(llama_directory, "svd", {"rank": 5}, FFN, tmp_path, Rounding(bits=4))
    with pytest.raises(TensorpressError, match="no linear layer is a rounded weight whose groups"):
        export(made.target, tmp_path / "served")
    assert not (tmp_path / "served").exists()
