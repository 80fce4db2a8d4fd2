"""Methods against closed forms: planted structure is found, bounds hold, checks are clear."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
import torch
from support.layers import HEAD_DIM, HEADS, HIDDEN, INNER, layer, relative, weights_of
from support.methods import ALONE, EXAMPLES, settings_of
from torch import Tensor

from tensorpress.analysis.damage import Sensitivity, damage_nats
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import count_of, gradient_of
from tensorpress.errors import TensorpressError
from tensorpress.methods.approach import APPROACHES
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import slices_of, stacked
from tensorpress.methods.registry import METHODS, load


def rebuilt(factors, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for each in factors:
        for index, module in enumerate(each.modules):
            if weights[module].ndim == 3:
                slices = slices_of(each.store, each.modules, index)
                found[module] = torch.stack([each.store.dense(s) for s in slices])
            else:
                found[module] = each.store.dense(index)
    return found


PACKED = ("tt_sparse", "sparse", "sum", "sparse_tucker")
"""Formats with packed numbers, of which a budget counts the bits."""
CASES = [
    *((name, spec.groups[0], settings_of(spec)) for name, spec in ALONE.items()),
    ("svd", "experts", {"rank": 7}),
    ("tt", "experts", {"order": 2, "rank": 6}),
    ("svd", "ffn", {"budget": {"saved": 0.5}}),
    ("tt", "ffn", {"order": 3, "budget": {"saved": 0.4}}),
    ("tt", "ffn", {"order": 3, "rank": 6, "shape": "search"}),
    ("tt_sparse", "ffn", {"order": 3, "rank": 6, "outliers": 0.01, "keep": [[1, 2]]}),
    ("tt_sparse", "experts", {"order": 2, "budget": {"saved": 0.4}, "outliers": 0.01}),
    ("tt_per_head", "attention", {"order": 2, "budget": {"saved": 0.3}}),
    ("tucker_per_head", "attention", {"budget": {"saved": 0.2}}),
    ("tucker_qkvo", "attention", {"budget": {"saved": 0.5}}),
    ("tucker_qkvo_separate", "attention", {"budget": {"saved": 0.5}}),
    ("tucker_ffn", "ffn", {"budget": {"saved": 0.5}}),
    ("td_moe", "experts", {"budget": {"saved": 0.5}}),
    ("td_moe", "experts", {"ratio": 0.3, "experts": "compress"}),
    ("td_moe", "experts", {"ranks": {"out": 8, "in": 16}}),
    ("cp", "ffn", {"budget": {"saved": 0.5}, "starts": 2}),
    ("cp", "experts", {"rank": 9, "starts": 1}),
    ("mobe", "experts", {"budget": {"saved": 0.5}, "steps": 3}),
    ("mobe", "experts", {"rank": 9, "bases": 1, "activation": "silu", "steps": 3}),
    ("sparse_tucker", "ffn", {"budget": {"saved": 0.5}}),
    ("sparse_tucker", "experts", {"budget": {"saved": 0.4}, "share": 0.8}),
    ("gptq", "experts", {"bits": 3, "group_size": None}),
    ("sparse", "experts", {"budget": {"saved": 0.5}}),
    ("sparse", "ffn", {"pattern": "1:3", "criterion": "wanda"}),
    ("sparse", "attention", {"pattern": "2:4", "criterion": "magnitude"}),
    ("sparse", "ffn", {"budget": {"saved": 0.9}, "threshold": "published"}),
    ("sparse_plus_low_rank", "experts", {"budget": {"saved": 0.4}, "rank": 2, "sweeps": 2}),
    ("quantised_plus_correction", "experts", {"correction": {"format": "tucker", "rank": 5}}),
    ("quantised_plus_correction", "ffn", {"correction": {"format": "tt", "rank": 5}}),
]


@pytest.mark.parametrize(("method", "group", "settings"), CASES)
def test_shapes_and_bounds(method: str, group: str, settings: dict) -> None:
    shape = layer()
    weights = weights_of(group, shape)
    spec = load(method).Spec(method=method, **settings)
    spec.check(shape, group)
    factors = load(method).decompose(weights, shape, spec, None)
    found = rebuilt(factors, weights)
    assert {m: w.shape for m, w in found.items()} == {m: w.shape for m, w in weights.items()}
    for each in factors:
        error = sum(float((found[m] - weights[m]).double().square().sum()) for m in each.modules)
        norm = sum(float(weights[m].double().square().sum()) for m in each.modules)
        joint = (error / norm) ** 0.5
        if each.lower_bound is not None:
            assert each.lower_bound <= joint * (1 + 1e-5) + 1e-6
        if each.upper_bound is not None:
            assert joint <= each.upper_bound * (1 + 1e-5) + 1e-6
        budget = settings.get("budget")
        if budget and each.store.name not in PACKED:
            dense = sum(weights[m].numel() for m in each.modules)
            assert 0.9 * budget["saved"] - 0.1 < 1 - each.stored_values / dense
            assert each.stored_values <= (1 - budget["saved"]) * dense


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("method", "group", "settings"), CASES)
def test_no_lower_bound_lies_above_the_error(
    method: str, group: str, settings: dict, rank: int, noise: float, whiten: bool
) -> None:
    """Stacks of low rank, whose tails are what rounding leaves, and of nearly low rank."""
    sort, shape = load(method).Spec, layer()
    if whiten and "whiten" not in sort.model_fields:
        return
    spec = sort(method=method, **settings, **{"whiten": "input"} if whiten else {})
    torch.manual_seed(rank)
    weights, moments = {}, {}
    for module, size in shape.group(group).items():
        left = torch.randn(size.slices, size.out_features, rank)
        weight = left @ torch.randn(rank, size.in_features)
        weight += noise * weight.norm() / weight.numel() ** 0.5 * torch.randn_like(weight)
        weights[module] = weight if size.slices > 1 else weight[0]
        inputs = torch.randn(size.slices, 64, size.in_features)
        moment = inputs.mT @ inputs / 64
        moments[module] = moment if size.slices > 1 else moment[0]
        moments[gradient_of(module)] = torch.rand(size.slices, size.out_features)
        moments[count_of(module)] = torch.full((size.slices,), 64)
    factors = load(method).decompose(weights, shape, spec, moments if spec.needs_moments else None)
    found = rebuilt(factors, weights)
    for each in factors:
        error = sum(float((found[m] - weights[m]).double().square().sum()) for m in each.modules)
        norm = sum(float(weights[m].double().square().sum()) for m in each.modules)
        reached = (error / norm) ** 0.5
        assert each.lower_bound is None or each.lower_bound <= reached
        assert each.upper_bound is None or reached <= each.upper_bound * 1.01 + 2e-6


def test_examples_are_of_their_methods() -> None:
    assert [spec.method for spec in EXAMPLES.values()] == list(METHODS)


def alone(weight: Tensor) -> LayerShape:
    """A layer that has one matrix."""
    return LayerShape(HIDDEN, HEADS, HEADS, HEAD_DIM, {"ffn.up": ModuleShape(*weight.shape)})


def test_svd_recovers_a_planted_rank() -> None:
    torch.manual_seed(0)
    weight = torch.randn(INNER, 5) @ torch.randn(5, HIDDEN)
    for matrix in (weight, weight.mT):
        spec = load("svd").Spec(method="svd", rank=5)
        factors = load("svd").decompose({"ffn.up": matrix}, alone(matrix), spec, None)
        assert relative(factors[0].store.dense(0), matrix) < 1e-6


@pytest.mark.parametrize("tall", [False, True])
def test_whitened_svd_is_best_on_the_inputs(tall: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn((40, 12) if tall else (12, 40))
    inputs = torch.randn(500, weight.shape[1]) * torch.logspace(0, -3, weight.shape[1])
    moment = inputs.mT @ inputs / 500
    module = load("svd")
    plain = module.decompose(
        {"ffn.up": weight}, alone(weight), module.Spec(method="svd", rank=4), None
    )
    spec = module.Spec(method="svd", rank=4, whiten="input")
    whitened = module.decompose({"ffn.up": weight}, alone(weight), spec, {"ffn.up": moment})

    def output_error(factors) -> float:
        return relative(inputs @ factors[0].store.dense(0).mT, inputs @ weight.mT)

    root = torch.linalg.cholesky(moment.double())
    tail = torch.linalg.svdvals(weight.double() @ root)
    best = float((tail[4:].square().sum() / tail.square().sum()).sqrt())
    assert output_error(whitened) == pytest.approx(best, rel=1e-3)
    assert output_error(plain) > 1.2 * best


def test_whitened_svd_with_identity_or_no_tokens_is_the_plain_one() -> None:
    weight = weights_of("ffn", layer())["ffn.up"]
    module = load("svd")
    spec = module.Spec(method="svd", rank=6, whiten="input")
    plain = module.decompose(
        {"ffn.up": weight}, alone(weight), module.Spec(method="svd", rank=6), None
    )
    for moment in (torch.eye(HIDDEN), torch.zeros(HIDDEN, HIDDEN)):
        other = module.decompose({"ffn.up": weight}, alone(weight), spec, {"ffn.up": moment})
        torch.testing.assert_close(
            other[0].store.dense(0), plain[0].store.dense(0), atol=1e-4, rtol=1e-4
        )


def test_whitened_svd_survives_a_singular_moment() -> None:
    weight = weights_of("ffn", layer())["ffn.up"]
    x = torch.randn(3, HIDDEN)
    module = load("svd")
    spec = module.Spec(method="svd", rank=3, whiten="input")
    (factors,) = module.decompose({"ffn.up": weight}, alone(weight), spec, {"ffn.up": x.mT @ x})
    assert relative(x @ factors.store.dense(0).mT, x @ weight.mT) < 1e-4


def planted_heads(shape: LayerShape) -> dict[str, Tensor]:
    """q, k, v, o with exact TensorLLM structure: shared hidden and head_dim subspaces."""
    torch.manual_seed(0)
    hidden, dim = torch.randn(HIDDEN, 5), torch.randn(HEAD_DIM, 3)
    stack, core = torch.randn(4, 2), torch.randn(5, HEADS, 3, 2)
    tensor = torch.einsum("ia,db,sc,ahbc->sihd", hidden, dim, stack, core).flatten(2)
    q, k, v, o = tensor
    return dict(zip(shape.group("attention"), (q.mT, k.mT, v.mT, o), strict=True))


def test_right_layout_finds_planted_heads_and_the_published_one_does_not() -> None:
    shape = layer()
    weights = planted_heads(shape)
    errors = {}
    for layout in ("tensorllm", "published"):
        module = load("tucker_qkvo")
        ranks = {"hidden": 5, "head_dim": 3, "stack": 2}
        spec = module.Spec(method="tucker_qkvo", ranks=ranks, layout=layout)
        (factors,) = module.decompose(weights, shape, spec, None)
        found = rebuilt([factors], weights)
        errors[layout] = max(relative(found[m], weights[m]) for m in weights)
    assert errors["tensorllm"] < 1e-5
    assert errors["published"] > 0.3


def test_grouped_query_attention_stacks_equal_shapes() -> None:
    shape = layer(kv_heads=2)
    weights = weights_of("attention", shape)
    module = load("tucker_qkvo")
    full = {"hidden": HIDDEN, "head_dim": HEAD_DIM, "stack": 2}
    spec = module.Spec(method="tucker_qkvo", ranks=full)
    factors = module.decompose(weights, shape, spec, None)
    assert [each.modules for each in factors] == [
        ("attention.q", "attention.o"),
        ("attention.k", "attention.v"),
    ]
    found = rebuilt(factors, weights)
    assert max(relative(found[m], weights[m]) for m in weights) < 1e-5


def test_td_moe_keeps_its_budget_and_compress_adds_an_expert_factor() -> None:
    shape = layer()
    weights = weights_of("experts", shape)
    module = load("td_moe")
    for experts in ("preserve", "compress"):
        spec = module.Spec(method="td_moe", ratio=0.4, experts=experts, alignment=1)
        for each in module.decompose(weights, shape, spec, None):
            stored = sum(value.numel() for value in each.store.state_dict().values())
            assert stored <= 0.6 * weights[each.modules[0]].numel()
            assert ("mix" in each.store.state_dict()) == (experts == "compress")


@pytest.mark.parametrize(
    ("method", "group", "settings", "message"),
    [
        ("svd", "ffn", {"rank": 25}, "rank: 25 is above the limit at ffn.gate; allowed: 1 to 24"),
        ("td_moe", "ffn", {"ratio": 0.2}, "'td_moe' does not decompose ffn; allowed: experts"),
        ("tucker_ffn", "ffn", {"ranks": {"out": 8, "in": 25}}, "ranks.in: 25 .* 1 to 24"),
        (
            "tucker_qkvo",
            "attention",
            {"ranks": {"hidden": 8, "head_dim": 7, "stack": 2}},
            "ranks.head_dim: 7 .* 1 to 6",
        ),
        ("td_moe", "experts", {"ratio": 0.99}, "ratio: 0.99 leaves no room"),
        (
            "tt_sparse",
            "ffn",
            {"order": 3, "budget": {"saved": 0.3}, "outliers": 0.9},
            r"outliers: 0\.9 of ffn\.gate, with budget\.saved: 0\.3, leaves no room for a train",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(method, group, settings, message) -> None:
    spec = load(method).Spec(method=method, **settings)
    with pytest.raises(TensorpressError, match=message):
        spec.check(layer(), group)


def test_every_method_says_what_it_is() -> None:
    assert {spec.approach for spec in EXAMPLES.values()} <= set(APPROACHES)
    silent = {"__annotations__": {"method": Literal["silent"]}, "__module__": "silent"}
    with pytest.raises(TypeError, match=r"silent: Spec\.approach: None is not allowed"):
        type("Spec", (MethodSpec,), silent)
    with pytest.raises(TypeError, match=r"'tensor' is not allowed"):
        type("Spec", (MethodSpec,), {**silent, "approach": "tensor"})


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys; import tensorpress.planning.plan, tensorpress.commands.cli, "
        "tensorpress.commands.tracking, tensorpress.commands.status; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WHITENED = [
    ("tt", "ffn", {"order": 2, "rank": 8}),
    ("tt_sparse", "ffn", {"order": 2, "rank": 8}),
    ("tt_per_head", "attention", {"order": 2, "rank": 6}),
    ("tucker_per_head", "attention", {"ranks": {"hidden": 3, "head_dim": 3}}),
    ("tucker_ffn", "ffn", {"ranks": {"out": 12, "in": 8}}),
    ("td_moe", "experts", {"ranks": {"out": 12, "in": 8}}),
]


@pytest.mark.parametrize(("method", "group", "settings"), WHITENED)
def test_whitening_lowers_the_error_of_the_outputs(method: str, group: str, settings: dict) -> None:
    """Inputs of uneven scale: weighing by them must help where it counts."""
    shape = layer()
    weights = weights_of(group, shape)
    torch.manual_seed(1)
    inputs = {
        module: torch.randn(400, size.in_features) * torch.logspace(0, -2, size.in_features)
        for module, size in shape.group(group).items()
    }
    moments = {
        module: (x.mT @ x / 400).expand(shape.modules[module].slices, -1, -1).squeeze(0)
        for module, x in inputs.items()
    }
    errors = []
    for whiten in ("none", "input"):
        spec = load(method).Spec(method=method, whiten=whiten, **settings)
        assert spec.needs_moments == (whiten == "input")
        given = moments if whiten == "input" else None
        found = rebuilt(load(method).decompose(weights, shape, spec, given), weights)
        lost = [
            float(((found[m] - weights[m]) @ inputs[m].mT).double().square().sum()) for m in weights
        ]
        errors.append(sum(lost))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("method", "group", "settings"), [("svd", "experts", {"rank": 6}), *WHITENED]
)
def test_weighing_outputs_lowers_the_predicted_damage(
    method: str, group: str, settings: dict
) -> None:
    """Inputs and gradients of uneven scale; what weighs them is the metric of the loss."""
    shape = layer()
    weights, moments = weights_of(group, shape), {}
    torch.manual_seed(1)
    for module, size in shape.group(group).items():
        x = torch.randn(400, size.in_features) * torch.logspace(0, -1, size.in_features)
        moments[module] = (x.mT @ x / 400).expand(size.slices, -1, -1).squeeze(0)
        gradient = torch.logspace(0, -4, size.out_features)
        moments[gradient_of(module)] = gradient.expand(size.slices, -1).squeeze(0)
    damages = []
    for whiten in ("input", "both"):
        outputs = {"whiten_output": "gradient"} if method == "td_moe" else {}
        spec = load(method).Spec(method=method, whiten=whiten, **outputs, **settings)
        assert spec.needs_gradients == (whiten == "both")
        found = rebuilt(load(method).decompose(weights, shape, spec, moments), weights)
        damages.append(
            sum(
                damage_nats(
                    stacked(found[m] - weights[m]),
                    Sensitivity(
                        stacked(moments[m]),
                        moments[gradient_of(m)].view(shape.modules[m].slices, -1),
                        torch.ones(shape.modules[m].slices),
                    ),
                )
                for m in weights
            )
        )
    assert damages[1] < 0.8 * damages[0]


def test_a_searched_shape_is_no_worse_and_says_what_it_gained() -> None:
    torch.manual_seed(0)
    # modes (2, 2, 6) and (5, 3, 2): not the balanced ones
    cores = [torch.randn(1, 2, 5, 3), torch.randn(3, 2, 3, 3), torch.randn(3, 6, 2, 1)]
    weight = torch.einsum("aimb,bjnc,ckod->mnoijk", *cores).reshape(30, 24)
    module = load("tt")
    errors, sizes = {}, {}
    for reading in ("balanced", "search"):
        spec = module.Spec(method="tt", order=3, rank=3, shape=reading)
        (factors,) = module.decompose({"ffn.up": weight}, alone(weight), spec, None)
        errors[reading] = relative(factors.store.dense(0), weight)
        sizes[reading] = factors.stored_values
    gain = errors["search"] / errors["balanced"]
    assert factors.shape_gain == pytest.approx(gain, abs=1e-3)
    assert gain < 0.7
    assert sizes["search"] <= sizes["balanced"]
