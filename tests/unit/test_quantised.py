"""Checkpoints as they ship: quantised weights are dequantised at the fetch, and it is said."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import quantised
from support.quantised import Maker
from support.untrusted import local, refusal, update
from test_completeness import saved

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import VALUE_BITS
from tensorpress.planning import identities
from tensorpress.running.oom import CPU
from tensorpress.sources.contents import fetched_config, model_source
from tensorpress.sources.quantised import Origin
from tensorpress.stages.fetching import fetch_model

PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8}
MAKERS: dict[str, tuple[str, Maker]] = {
    "FP8 in blocks of 16 x 16": ("llama", quantised.fp8),
    "FP8 in blocks of 20 x 20": ("llama", partial(quantised.fp8, block=(20, 20))),
    "FP8, one scale a matrix": ("llama", partial(quantised.fp8, block=None)),
    "MXFP4": ("gpt_oss", quantised.mxfp4),
    "GPTQ, 4 bits in groups of 8": ("llama", quantised.gptq),
    "GPTQ, 8 bits in groups of 8": ("llama", partial(quantised.gptq, bits=8, v2=True)),
    "GPTQ, 2 bits in groups of 8": ("llama", partial(quantised.gptq, bits=2, act_order=True)),
    "AWQ, 4 bits in groups of 8": ("llama", quantised.awq),
    "compressed-tensors, pack-quantized": (
        "llama", partial(quantised.compressed, form="pack-quantized", **PACKED, symmetric=False),
    ),
    "compressed-tensors, int-quantized": (
        "llama",
        partial(quantised.compressed, form="int-quantized", num_bits=8, strategy="channel"),
    ),
    "compressed-tensors, float-quantized": (
        "llama",
        partial(quantised.compressed, form="float-quantized", num_bits=8, type="float",
                strategy="block", block_structure=[16, 16]),
    ),
    "bitsandbytes, nf4": ("llama", partial(quantised.four_bits, nested=True)),
    "bitsandbytes, fp4": ("llama", partial(quantised.four_bits, kind="fp4")),
    "bitsandbytes, 8 bits": ("llama", quantised.eight_bits),
}  # fmt: skip


def made(described: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    model_type, maker = MAKERS[described]
    saved(model_type, folder, intermediate_size=64)  # blocks of 32 in all formats
    return folder, maker(folder)


@pytest.mark.parametrize("described", MAKERS)
def test_weights_are_what_the_codes_stand_for(tmp_path: Path, described: str) -> None:
    folder, expected = made(described, tmp_path / "model")
    model_source("m", local(folder))
    fetch_model("m", local(folder), target := tmp_path / "fetched", CPU, stored="float32")
    checkpoint = Checkpoint.open(target)
    found = checkpoint.read(checkpoint.files)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight.float(), rtol=1e-5, atol=1e-8)
    assert checkpoint.config == fetched_config("m", local(folder), "float32")
    assert "quantization_config" not in checkpoint.config
    file = folder / "model.safetensors"
    held = load_file(file)
    assert Origin.of(target).quantisation == described
    assert Origin.of(target).bits == 8 * sum(t.nbytes for n, t in held.items() if counts(n))
    assert torch.isfinite(load_model(target, CPU)(torch.arange(9)[None]).logits).all()


def counts(name: str) -> bool:
    """Whether a tensor says something of weights, and not only how to read them."""
    return "quant_state" not in name and "weight_format" not in name


@pytest.mark.parametrize(
    ("described", "part"),
    [
        ("FP8 in blocks of 16 x 16", "q_proj.weight_scale_inv"),
        ("MXFP4", "experts.down_proj_scales"),
        ("GPTQ, 4 bits in groups of 8", "q_proj.scales"),
        ("AWQ, 4 bits in groups of 8", "q_proj.qzeros"),
        ("compressed-tensors, pack-quantized", "q_proj.weight_shape"),
        ("bitsandbytes, nf4", "q_proj.weight.quant_map"),
        ("bitsandbytes, 8 bits", "q_proj.SCB"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, described: str, part: str) -> None:
    folder, _ = made(described, tmp_path / "model")
    file = folder / "model.safetensors"
    held = load_file(file)
    (name,) = (
        name
        for name in held
        if name.endswith(f"layers.0.self_attn.{part}") or (name.endswith(f"layers.0.mlp.{part}"))
    )
    del held[name]
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(TensorpressError) as caught:
        fetch_model("m", local(folder), tmp_path / "fetched", CPU)
    message = str(caught.value)
    assert "\n" not in message
    stem = name.removesuffix("_scale_inv").removesuffix(".SCB").removesuffix("_scales")
    assert message.startswith(f"models.m: tensor {stem}")
    assert "allowed: " in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "hqq"}, "weights quantised with 'hqq' are not read; allowed: fp8, mxfp4"),
        ("fp8", "weights quantised with 'fp8' are not read"),
        ({"quant_method": "gptq", "bits": 3}, "bits: 3 is not read of gptq; allowed: 2, 4, 8"),
        (
            {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*": {}}},
            "dynamic: {'-:.*': {}} is not read of gptq; allowed: {}",
        ),
        (
            {"quant_method": "awq", "bits": 4, "version": "gemv"},
            "version: 'gemv' is not read of awq; allowed: gemm, GEMM",
        ),
        (
            {"quant_method": "compressed-tensors", "format": "marlin-24"},
            "format: 'marlin-24' is not read of compressed-tensors; allowed: pack-quantized",
        ),
        ({"quant_method": "fp8", "weight_block_size": 128}, "as transformers writes them"),
    ],
)
def test_what_is_not_read_is_refused_while_planning(
    copy: Path, settings: object, words: str
) -> None:
    update(copy / "config.json", quantization_config=settings)
    message = refusal(local(copy))
    assert message.startswith("models.m: config.json: quantization_config: ")
    assert words in message


def test_other_storage_is_another_model(tmp_path: Path) -> None:
    """Codes are stored in ``storage.dtype``, which is in the key; plain weights as they are."""
    folder, expected = made("GPTQ, 4 bits in groups of 8", tmp_path / "model")
    keys = {dtype: identities.model("m", local(folder), dtype).key for dtype in VALUE_BITS}
    assert len(set(keys.values())) == 3
    plain = saved("llama", tmp_path / "plain")
    assert len({identities.model("m", local(plain), dtype).key for dtype in VALUE_BITS}) == 1
    fetch_model("m", local(folder), target := tmp_path / "fetched", CPU, stored="bfloat16")
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(Checkpoint.open(target).read([name])[name], expected[name].bfloat16())
    assert Checkpoint.open(target).config["dtype"] == "bfloat16"


def test_values_that_the_storage_cannot_hold(tmp_path: Path) -> None:
    folder, _ = made("FP8, one scale a matrix", tmp_path / "model")
    file = folder / "model.safetensors"
    held = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    held[f"{name}_scale_inv"] = torch.tensor(1e6)
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(TensorpressError, match=f"storage.dtype: float16 cannot hold {name}, "):
        fetch_model("m", local(folder), tmp_path / "fetched", CPU, stored="float16")


def test_a_tied_head_and_what_is_left_out_count_once(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model", tie_word_embeddings=True)
    quantised.fp8(folder)
    file = folder / "model.safetensors"
    held = load_file(file)
    once = 8 * sum(tensor.nbytes for tensor in held.values())
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    held["model.layers.0.self_attn.q_proj.input_scale"] = torch.ones(1)
    save_file(held, file, metadata={"format": "pt"})
    fetch_model("m", local(folder), target := tmp_path / "fetched", CPU)
    assert Origin.of(target) == Origin(once, "FP8 in blocks of 16 x 16")
