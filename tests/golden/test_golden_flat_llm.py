"""Choices of neurons and FLAT-LLM's layers against golden2.json."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from support.oracle import DATA2, inputs, needs_golden, tensor2_of
from support.workspace import ROOT
from torch import Tensor
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForCausalLM

from tensorpress.architectures.families.llama import LINEARS
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.sites import count_of
from tensorpress.linalg.columns import greedy, leverage, refit
from tensorpress.methods import heads, neurons
from tensorpress.methods.factors import Factors

pytestmark = needs_golden
SELECTIONS = DATA2.get("nystroem_selection", [])


def activations(case: dict) -> tuple[Tensor, Tensor]:
    """Down ``(d, inner)`` and what it reads ``(tokens, inner)``, float64."""
    golden = inputs("golden2_inputs")
    made = eval(case["weights"], vars(golden))
    weights = {name: torch.tensor(value).double() for name, value in made.items()}
    x = tensor2_of(case["inputs"]).double()
    return weights["down"], silu(x @ weights["gate"].mT) * (x @ weights["up"].mT)


@pytest.mark.parametrize("case", SELECTIONS, ids=lambda case: f"{case['weights']}-{case['kept']}")
def test_choices_of_neurons(case: dict) -> None:
    down, inner = activations(case)
    total, count = inner.mT @ inner, case["kept"]
    moment = total / len(inner)

    def error(kept: Tensor) -> float:
        found = inner[:, kept] @ refit(down, moment, kept).mT
        return float((found - inner @ down.mT).norm() / (inner @ down.mT).norm())

    published = leverage(total, count)
    assert sorted(published.tolist()) == case["selected_published"]
    # duplicates make the published inverse a matter of rounding; ours stands, and is no worse
    singular = case["weights"].startswith("duplicated")
    theirs = case["leverage_sum_lambda_1"]
    assert error(published) == pytest.approx(theirs, rel=1e-2 if singular else 1e-5)
    assert error(published) <= theirs * (1 + 1e-5)
    chosen = greedy(down, moment, count)
    assert error(chosen.order) == pytest.approx(case["output_greedy"], rel=1e-5, abs=1e-6)
    assert error(chosen.order) >= case["svd_bound_same_rank"] * (1 - 1e-6)


def published(case: dict) -> tuple[LlamaForCausalLM, LlamaForCausalLM, list[list[Factors]]]:
    """The dense model, the one with FLAT-LLM's layers put in one after the other, their factors."""
    golden = inputs("golden2_inputs")
    config = LlamaConfig(
        hidden_size=96, intermediate_size=160, num_hidden_layers=2, vocab_size=128, head_dim=16,
        num_attention_heads=case["heads"], num_key_value_heads=case["kv_heads"],
        rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    dense = LlamaForCausalLM(config).double().eval()
    made = eval(case["weights"], vars(golden))
    dense.load_state_dict({name: torch.tensor(value) for name, value in made.items()})
    model = copy.deepcopy(dense)
    shapes = architecture_of(config.to_dict(), "golden").shapes
    text = torch.tensor(golden.ids(141, 4, 96, 128))
    factors = []
    for index, kept in enumerate(case["kept"]):
        layer, shape = model.model.layers[index], shapes[index]
        linears = {m: layer.get_submodule(LINEARS[m].path) for m in shape.modules}
        seen: dict[str, Tensor] = {}
        hooks = [
            linears[module].register_forward_pre_hook(
                lambda _, args, m=module, seen=seen: seen.update({m: args[0].flatten(0, 1)})
            )
            for module in linears
        ]
        with torch.inference_mode():
            model(input_ids=text)
        for hook in hooks:
            hook.remove()
        moments = {m: x.mT @ x / len(x) for m, x in seen.items()}
        moments |= {count_of(m): torch.tensor([len(x)]) for m, x in seen.items()}
        weights = {m: linear.weight.detach().clone() for m, linear in linears.items()}
        specs = (
            heads.Spec(method="heads", rank=int(kept * 16), basis="pca", qk="published"),
            neurons.Spec(method="neurons", neurons=int(kept * 160), select="leverage"),
        )
        groups = zip(specs, (heads, neurons), ("attention.", "ffn."), strict=True)
        own = [
            each
            for spec, method, start in groups
            for each in method.decompose(
                {m: w for m, w in weights.items() if m.startswith(start)}, shape, spec, moments
            )
        ]
        factors.append(own)
        for each in own:
            for place, module in enumerate(each.modules):
                linears[module].weight.data = each.store.dense(place).double()
    return dense, model, factors


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


def products(model: LlamaForCausalLM, case: dict) -> Tensor:
    """What each query head of the first layer adds of its values: ``(heads, d, d)``."""
    attention = model.model.layers[0].self_attn
    v = attention.v_proj.weight.unflatten(0, (case["kv_heads"], -1))
    o = attention.o_proj.weight.unflatten(1, (case["heads"], -1)).transpose(0, 1)
    return (o @ v.repeat_interleave(case["heads"] // case["kv_heads"], dim=0)).detach()


@pytest.mark.parametrize("case", DATA2.get("flat_llm", {}).get("cases", []))
def test_flat_llm(case: dict) -> None:
    """The first layer as published. Logits are not to the digit: ours err by at most 1 % more."""
    dense, model, factors = published(case)
    test = torch.tensor(inputs("golden2_inputs").ids(142, 2, 96, 128))
    with torch.inference_mode():
        logits = [each(input_ids=test).logits for each in (model, dense)]
    assert relative(*logits) <= 1.01 * case["logits_rel_test"]
    marked = sum(each.store.packed().get("kept", (0, 0))[0] for own in factors for each in own)
    assert sum(each.stored_values for own in factors for each in own) - marked == case["values"]
    if "layer0_neurons" not in case:
        return
    (subset,) = (each.store for each in factors[0] if each.modules[-1] == "ffn.down")
    assert subset.places(0).tolist() == sorted(case["layer0_neurons"])
    found = relative(products(model, case), products(dense, case))
    assert found == pytest.approx(case["layer0_ov_product_rel"], rel=1e-5)
    for name in ("q", "k"):
        pair = [
            each.model.layers[0].self_attn.get_submodule(f"{name}_proj").weight
            for each in (model, dense)
        ]
        assert relative(*pair) == pytest.approx(case[f"layer0_{name}_rel"], rel=1e-5)


@pytest.mark.parametrize("kept", [0.7, 0.5])
def test_values_of_llama_2_7b(kept: float) -> None:
    """From shapes alone, with FLAT-LLM's shares of the layers."""
    (shares,) = (
        each["kept_per_layer"]
        for each in DATA2["flat_llm"]["rank_allocation"]
        if each["importance"].endswith("llama-2-7b") and each["kept"] == kept
    )
    sizes = DATA2["storage_from_shapes"]["flat_llm_llama_2_7b_layers"]
    (case,) = (each for each in sizes if each["kept_target"] == kept)
    config = json.loads((ROOT / "studies/configs/llama-2-7b.json").read_text(encoding="utf-8"))
    shapes = architecture_of(config, "golden").shapes[:-1]
    values = 0
    for shape, share in zip(shapes, shares, strict=True):
        cut = heads.Spec(method="heads", rank=int(share * 128), basis="pca", qk="published")
        narrow = neurons.Spec(method="neurons", neurons=int(share * 11008), select="leverage")
        layouts = [*cut.layouts(shape, "attention"), *narrow.layouts(shape, "ffn")]
        with torch.device("meta"):
            stores = [layout.build() for layout in layouts]
        values += sum(factor.numel() for store in stores for factor in store.parameters())
    assert values == case["values"]
    dense = sum(module.numel for shape in shapes for module in shape.modules.values())
    assert dense == case["dense_values"]
