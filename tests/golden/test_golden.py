"""Agreement with the independent oracle in ../shared/golden (its README states the tolerances)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tensorpress import layers
from tensorpress.families.llama import FAMILY as LLAMA
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.linalg.tensor_train import balanced_factors
from tensorpress.methods import td_moe
from tensorpress.registry import load

GOLDEN = Path(__file__).parents[2].parent / "shared/golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is missing")
DATA = json.loads((GOLDEN / "golden.json").read_text()) if GOLDEN.is_dir() else {}


def inputs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inputs", GOLDEN / "inputs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor_of(expression: str) -> torch.Tensor:
    """The input that a golden entry names, such as ``mixed(11,96,288)``."""
    made = eval(expression, vars(inputs()))
    return torch.tensor(made[0] if isinstance(made, tuple) else made)


def stacked_error(stores, weights: torch.Tensor) -> float:
    rebuilt = torch.stack([stores.dense(i) for i in range(weights.shape[0])])
    return float((rebuilt.double() - weights.double()).norm() / weights.double().norm())


def test_balanced_factors() -> None:
    for number, orders in DATA["factor_int_balanced"].items():
        for order, expected in orders.items():
            assert balanced_factors(int(number), int(order)) == expected


def test_layer_sets() -> None:
    for name, sets in DATA["layer_sets"].items():
        kind, count = name.rsplit("_", 1)
        chosen = layers.middle if kind == "middle_expanding" else layers.middle_out
        for index, expected in enumerate(sets):
            assert list(chosen(int(count), index + 1)) == expected["layers"], name


@pytest.mark.parametrize("name", list(DATA.get("tt", {})))
def test_tt(name: str) -> None:
    entry = DATA["tt"][name]
    weight = tensor_of(entry["input"])
    cases = [case for case in entry["cases"] if case["rank"] is not None]
    assert cases
    for case in cases:
        spec = load("tt").Spec(method="tt", order=case["order"], rank=case["rank"])
        (factors,) = load("tt").decompose({"x": weight}, None, spec, None)
        values = sum(value.numel() for value in factors.store.state_dict().values())
        bias = weight.shape[0] if case.get("bias") else 0
        assert factors.store.settings["ranks"] == case["tt_ranks"]
        assert values + bias == case["num_tt_parameters"]
        error = stacked_error(factors.store, weight[None])
        assert error == pytest.approx(case["rel_err"], rel=1e-5, abs=1e-6)
        assert factors.lower_bound * (1 - 1e-6) <= error + 1e-6
        assert error <= factors.upper_bound * (1 + 1e-6) + 1e-6


def test_tt_exact() -> None:
    for entry in DATA["tt_exact"]:
        weight = tensor_of(entry["input"])
        for case in entry["cases"]:
            spec = load("tt").Spec(method="tt", order=case["order"], rank=case["rank"])
            (factors,) = load("tt").decompose({"x": weight}, None, spec, None)
            assert factors.store.settings["ranks"] == case["tt_ranks"]
            error = stacked_error(factors.store, weight[None])
            assert error == pytest.approx(case["rel_err"], rel=1e-5, abs=1e-6)


def test_td_moe_rank_search_as_published() -> None:
    for case in DATA["td_moe"]["rank_search"]:
        experts, out, inner = case["shape"]
        spec = td_moe.Spec(
            method="td_moe",
            ratio=case["ratio"],
            experts=case["mode"],
            alignment=case["alignment"],
            rank_choice="nearest_budget",
        )
        shape = ModuleShape(out, inner, experts)
        ranks = td_moe.choose_ranks(torch.empty(0), shape, spec)
        assert [ranks.expert, ranks.out, ranks.inner] == case["ranks"], case
        assert ranks.values(shape, case["mode"] == "compress") == case["params"]


def td_moe_error(stack: torch.Tensor, **settings) -> tuple[float, int]:
    shape = ModuleShape(stack.shape[1], stack.shape[2], stack.shape[0])
    layer = LayerShape(1, 1, 1, 1, {"experts.gate": shape})
    spec = td_moe.Spec(method="td_moe", **settings)
    (factors,) = td_moe.decompose({"experts.gate": stack}, layer, spec, None)
    values = sum(value.numel() for value in factors.store.state_dict().values())
    return stacked_error(factors.store, stack), values


def test_td_moe_errors_and_predicted_choice() -> None:
    for case in DATA["td_moe"]["compress"]:
        stack = tensor_of(case["input"])
        settings = {"ratio": case["ratio"], "experts": case["mode"]}
        error, values = td_moe_error(stack, **settings, rank_choice="nearest_budget")
        assert error == pytest.approx(case["rel_err"], rel=1e-4)
        assert values == case["params"]
        ours, ours_values = td_moe_error(stack, **settings)
        assert ours_values <= round((1 - case["ratio"]) * stack.numel())
        if case["params"] <= ours_values:
            assert ours <= error * (1 + 1e-6), case


def tiny_llama_error(method: str, group: str, kv_heads: int, **settings) -> float:
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
    error = total = 0.0
    for layer in (1, 2):
        shape = LLAMA.layer_shape(config, layer)
        chosen = {
            module: torch.tensor(weights[f"{LLAMA.linear_path(layer, module)}.weight"])
            for module in shape.group(group)
        }
        for factors in load(method).decompose(chosen, shape, spec, None):
            for index, module in enumerate(factors.modules):
                weight = chosen[module].double()
                error += float((factors.store.dense(index).double() - weight).square().sum())
                total += float(weight.square().sum())
    return (error / total) ** 0.5


def tiny_llama_settings(run: dict) -> tuple[str, dict] | None:
    """Our method and settings for a golden run, ``None`` where a later issue covers it."""
    plan, ranks = run["plan"], run["modules"][0].get("ranks")
    if plan["quant"][0] != "none":
        return None
    if plan["method"] == "tensorllm_tucker_mha" and run["kv_heads"] == 6:
        names = dict(zip(("hidden", "head_dim", "stack"), ranks, strict=True))
        return "tucker_qkvo", {"layout": "published", "ranks": names}
    if plan["method"] == "tensorllm_tucker_mlp":
        inner = plan["params"].get("ffn_in_rank", plan["rank"])
        return "tucker_ffn", {"ranks": {"out": plan["rank"], "in": inner}}
    if plan["method"] == "tt":
        return "tt", {"order": 4, "rank": plan["rank"]}
    if plan["method"] == "laser":
        return "svd", {"rank": plan["rank"]}
    return None


def test_tiny_llama_errors_are_at_most_the_published_ones() -> None:
    checked = []
    for run in DATA["tiny_llama"]["runs"]:
        chosen = tiny_llama_settings(run)
        if chosen is not None:
            method, settings = chosen
            group = "attention" if run["plan"]["target"] == "mha" else "ffn"
            error = tiny_llama_error(method, group, run["kv_heads"], **settings)
            assert error <= run["joint_rel_err"] * 1.001, run["plan"]
            checked.append(method)
    assert {"tucker_qkvo", "tucker_ffn", "tt", "svd"} <= set(checked)
