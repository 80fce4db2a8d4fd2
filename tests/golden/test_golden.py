"""Agreement with the independent oracle in ../shared/golden (its README states the tolerances)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tensorpress import layers, storage
from tensorpress.families.base import Family
from tensorpress.families.gpt_oss import FAMILY as GPT_OSS
from tensorpress.families.llama import FAMILY as LLAMA
from tensorpress.families.qwen3_moe import FAMILY as QWEN3_MOE
from tensorpress.formats import rounding
from tensorpress.formats.base import Format
from tensorpress.formats.rounded import rounded
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.linalg.tt_shapes import balanced_factors
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


def alone(weight: torch.Tensor) -> LayerShape:
    """A layer that has one matrix."""
    return LayerShape(1, 1, 1, 1, {"ffn.up": ModuleShape(*weight.shape)})


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
        (factors,) = load("tt").decompose({"ffn.up": weight}, alone(weight), spec, None)
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
            (factors,) = load("tt").decompose({"ffn.up": weight}, alone(weight), spec, None)
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
        ranks = td_moe.nearest(td_moe.candidates(shape, spec), shape, spec)
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


PACKED = {
    "qwen3_30b_a3b": (QWEN3_MOE, lambda gate, up: torch.cat([gate, up], dim=1)),
    "gpt_oss_20b": (GPT_OSS, lambda gate, up: torch.stack([gate, up], dim=2).flatten(1, 2).mT),
}
"""Family and its layout of gate and up in one tensor: one after the other, or rows in turn."""


@pytest.mark.parametrize(
    "case", DATA.get("td_moe", {}).get("apply", []), ids=lambda case: case["family"]
)
def test_td_moe_of_gate_and_up_as_families_pack_them(case: dict) -> None:
    gate, up = (tensor_of(part.split("=")[1]) for part in split_inputs(case["input"]))
    family, pack = PACKED[case["family"]]
    stacks = unpacked(family, pack(gate, up), gate.shape)
    assert torch.equal(stacks["experts.gate"], gate)
    assert torch.equal(stacks["experts.up"], up)
    shape = ModuleShape(gate.shape[1], gate.shape[2], gate.shape[0])
    layer = LayerShape(1, 1, 1, 1, dict.fromkeys(stacks, shape))
    spec = td_moe.Spec(method="td_moe", ratio=case["ratio"], rank_choice="nearest_budget")
    found = td_moe.decompose(stacks, layer, spec, None)
    for factors, name in zip(found, ("gate_ranks", "up_ranks"), strict=True):
        settings = factors.store.settings
        assert [settings["slices"], settings["out_rank"], settings["in_rank"]] == case[name]
    assert sum(factors.stored_values for factors in found) == case["storage_params"]
    assert sum(bits_of(factors.store) for factors in found) == case["storage_bits"]
    assert 2 * 16 * shape.numel == case["dense_bits"]
    error = total = 0.0
    for factors in found:
        weight = stacks[factors.modules[0]].double()
        error += (stacked_error(factors.store, weight) * float(weight.norm())) ** 2
        total += float(weight.square().sum())
    assert (error / total) ** 0.5 == pytest.approx(case["rel_err"], rel=1e-4)


def split_inputs(text: str) -> list[str]:
    """``gate=experts(..), up=experts(..) packed ...`` as its two expressions."""
    return text.removesuffix(" packed in that family layout").split(", ")


def unpacked(
    family: Family, packed: torch.Tensor, shape: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Gate and up as the family reads them from the packed tensor of a checkpoint."""
    config = {
        "hidden_size": shape[2], "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": shape[1],
        "moe_intermediate_size": shape[1], "num_experts": shape[0], "num_local_experts": shape[0],
    }  # fmt: skip
    layer = family.layer_shape(config, 0)
    assert family.experts is not None
    name = f"{family.experts_path(0)}.{family.experts.gate_up}"
    found = {}
    for module in ("experts.gate", "experts.up"):
        source = family.weight_source(0, module, layer, {name: ""})
        assert list(source.names) == [name]
        found[module] = source.take([packed])
    return found


def bits_of(store: Format) -> int:
    """Bits of a factor set at 16 bits a value."""
    return storage.bits(storage.stored_tensors(store, 0, replaced=True).values(), 16)


BILLED_AS_DENSE = ("svd", "tt_per_head", "tucker_per_head")
"""Methods whose factors the published code does not count (golden/README.md, error 4)."""


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


def test_tt_sparse() -> None:
    for case in DATA["dense_sparse"]:
        made = {"A96x288": "mixed(11,96,288)", "A256x704": "mixed(13,256,704)"}
        weight = tensor_of(made[case["input"].split()[0]])
        weight[3, 7], weight[-1, -1] = 1.5, -2.0
        spec = load("tt_sparse").Spec(
            method="tt_sparse",
            order=case["order"],
            rank=case["rank"],
            outliers=case["outlier_fraction"],
            keep=case["include_coords"],
        )
        (factors,) = load("tt_sparse").decompose({"ffn.up": weight}, alone(weight), spec, None)
        store = factors.store
        rows, columns = store.coordinates(0)
        assert len(rows) == case["kept"]
        first = list(zip(rows.tolist(), columns.tolist(), strict=True))
        count = len(case["first_coords"])
        assert [list(place) for place in first][:count] == case["first_coords"]
        assert store.settings["ranks"] == case["tt_ranks"]
        trains = sum(core.numel() for core in store.cores(0))
        assert trains == case["tt_params"]
        sparse = len(rows) * (16 + sum(store.coordinate_bits))
        assert sparse == case["sparse_storage_bits"]
        assert 0 <= 8 * store.place_0.numel() + 16 * len(rows) - sparse < 8  # whole bytes
        assert stacked_error(store, weight[None]) == pytest.approx(case["rel_err"], rel=1e-5)


def test_td_moe_whitening_as_published_and_as_it_should_be() -> None:
    """The published code multiplies by the inverse root and loses; the root itself wins."""
    for case in DATA["td_moe"]["whitened"]:
        seed = int(case["input"].split("(")[1].split(",")[0])
        sizes = {31: (8, 24, 40), 32: (16, 48, 64), 33: (32, 96, 128)}[seed]
        stack = tensor_of(f"experts({seed},{','.join(map(str, sizes))})")
        inner = tensor_of(case["input_covariance"])
        outer = tensor_of(case["output_covariance"])
        root = torch.linalg.cholesky(inner)
        errors = {}
        for reading in ("published", "square_root"):
            names = {"out": case["ranks"][1], "in": case["ranks"][2]}
            spec = td_moe.Spec(
                method="td_moe", ranks=names, whiten=case["whitening_mode"], whiten_root=reading
            )
            rebuilt = whitened_rebuild(stack, spec, inner, outer)
            error = rebuilt - stack.double()
            errors[reading] = float((error @ root).norm() / (stack.double() @ root).norm())
            if reading == "published":
                relative = float(error.norm() / stack.double().norm())
                assert relative == pytest.approx(case["rel_err"], rel=1e-4)
                expected = case["input_weighted_rel_err"]
                assert errors[reading] == pytest.approx(expected, rel=1e-4)
        assert errors["square_root"] < errors["published"]
        if case["whitening_mode"] == "input":
            assert errors["square_root"] < case["input_weighted_rel_err_no_whitening"]


def whitened_rebuild(
    stack: torch.Tensor, spec: td_moe.Spec, inner: torch.Tensor, outer: torch.Tensor
) -> torch.Tensor:
    """What ``td_moe`` makes of a stack whose moments are the given ones."""
    from tensorpress.linalg.tucker import expand_modes, hosvd
    from tensorpress.linalg.whitening import roots

    pairs = {2: roots(inner), 1: roots(outer)}
    names = {2: "input", 1: "output"}
    chosen = {m: p for m, p in pairs.items() if spec.whiten in (names[m], "both")}
    if spec.whiten_root == "published":
        chosen = {mode: (inverse, root) for mode, (root, inverse) in chosen.items()}
    white = expand_modes(stack.double(), {mode: root for mode, (root, _) in chosen.items()})
    core, bases, _ = hosvd(white, {1: spec.ranks.out, 2: spec.ranks.in_})
    return expand_modes(
        expand_modes(core, bases), {mode: inverse for mode, (_, inverse) in chosen.items()}
    )
