"""Runs of a tiny Llama agree with the oracle: layer sets, rounding, errors and bits."""

from __future__ import annotations

import pytest
import torch
from support.oracle import DATA, bits_of, inputs, needs_golden, tensor_of

from tensorpress.architectures import layers
from tensorpress.architectures.families.llama import FAMILY as LLAMA
from tensorpress.formats import rounding
from tensorpress.formats.rounded import rounded
from tensorpress.methods.registry import load

pytestmark = needs_golden


def test_layer_sets() -> None:
    for name, sets in DATA["layer_sets"].items():
        kind, count = name.rsplit("_", 1)
        chosen = layers.middle if kind == "middle_expanding" else layers.middle_out
        for index, expected in enumerate(sets):
            assert list(chosen(int(count), index + 1)) == expected["layers"], name


@pytest.mark.parametrize("case", DATA.get("rtn", []), ids=lambda case: f"int{case['bits']}")
def test_rtn(case: dict) -> None:
    weight = tensor_of(DATA["tt"][case["input"]]["input"])
    scales = rounding.scales_of(weight, case["bits"], None)
    codes = rounding.quantise(weight, scales, case["bits"], None)
    values = rounding.dequantise(codes, scales, case["bits"], None).view_as(weight)
    assert scales.tolist() == pytest.approx([case["scale"]], rel=1e-6)
    assert len(values.unique()) == case["distinct"]
    error = (values.double() - weight.double()).norm() / weight.double().norm()
    assert float(error) == pytest.approx(case["rel_err"], rel=1e-5)


BILLED_AS_DENSE = ("svd", "tt_per_head", "tucker_per_head")
"""Methods whose factors the published code does not count."""


def tiny_llama_error(
    method: str, group: str, kv_heads: int, round_bits: int | None = None, **settings
) -> tuple[float, int, int]:
    """Joint relative error over layers 1 and 2, stored values, and bits with 16-bit values."""
    config = {
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": kv_heads,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (512, 96),
        "lm_head.weight": (512, 96),
        "model.norm.weight": (96,),
    }
    for layer in range(4):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (96,)
        for module, shape in LLAMA.layer_shape(config, layer).modules.items():
            name = f"{LLAMA.linear_path(layer, module)}.weight"
            shapes[name] = (shape.out_features, shape.in_features)
    weights = inputs().model_weights(shapes)
    spec = load(method).Spec(method=method, **settings)
    error, total, values, bits = 0.0, 0.0, 0, 0
    for layer in (1, 2):
        shape = LLAMA.layer_shape(config, layer)
        chosen = {
            module: torch.tensor(weights[f"{LLAMA.linear_path(layer, module)}.weight"])
            for module in shape.group(group)
        }
        for factors in load(method).decompose(chosen, shape, spec, None):
            values += factors.stored_values
            store = factors.store
            if round_bits is not None:
                store = rounded(store, round_bits, None, torch.float32)
            bits += bits_of(store)
            for index, module in enumerate(factors.modules):
                weight = chosen[module].double()
                error += float((store.dense(index).double() - weight).square().sum())
                total += float(weight.square().sum())
    return (error / total) ** 0.5, values, bits


def tiny_llama_settings(run: dict) -> tuple[str, dict] | None:
    """Our method and settings for a golden run, ``None`` where we have no such method."""
    plan, ranks = run["plan"], run["modules"][0].get("ranks")
    if plan["method"] == "tensorllm_tucker_mha":
        names = dict(zip(("hidden", "head_dim", "stack"), ranks, strict=False))
        settings = {"layout": "published", "gqa": "per_projection", "ranks": names}
        return "tucker_qkvo", settings
    if plan["method"] == "tensorllm_tucker_mha_sep_last":
        settings = {"layout": "published", "gqa": "per_projection", "rank": plan["rank"]}
        return "tucker_qkvo_separate", settings
    if plan["method"] == "tt_per_head":
        return "tt_per_head", {"order": plan["params"]["tt_order"], "rank": plan["rank"]}
    if plan["method"] == "tucker_per_head":
        names = {
            "hidden": plan["params"]["hidden_rank"],
            "head_dim": plan["params"]["head_dim_rank"],
        }
        return "tucker_per_head", {"ranks": names}
    if plan["method"] == "tensorllm_tucker_mlp":
        inner = plan["params"].get("ffn_in_rank", plan["rank"])
        return "tucker_ffn", {"ranks": {"out": plan["rank"], "in": inner}}
    if plan["method"] == "tt":
        return "tt", {"order": 4, "rank": plan["rank"]}
    if plan["method"] == "laser":
        return "svd", {"rank": plan["rank"]}
    return None


def test_tiny_llama_errors_are_at_most_the_published_ones() -> None:
    checked, quantised = [], []
    for run in DATA["tiny_llama"]["runs"]:
        chosen = tiny_llama_settings(run)
        if chosen is not None:
            method, settings = chosen
            group = "attention" if run["plan"]["target"] == "mha" else "ffn"
            way, bits = run["plan"]["quant"]
            error, values, stored_bits = tiny_llama_error(
                method, group, run["kv_heads"], bits, **settings
            )
            assert error <= run["joint_rel_err"] * 1.001, run["plan"]
            if method not in BILLED_AS_DENSE:
                assert values == sum(module["storage_params"] for module in run["modules"]), run
                assert stored_bits == sum(m["storage_bits_final"] for m in run["modules"]), run
            checked.append(method)
            quantised.append(way)
    assert set(quantised) == {"none", "tensorllm_pre_reconstruct_rtn", "rtn_symmetric"}
    assert set(checked) == {
        "tucker_qkvo", "tucker_qkvo_separate", "tucker_per_head", "tt_per_head", "tucker_ffn",
        "tt", "svd",
    }  # fmt: skip
