"""TD-MoE agrees with the oracle: search of ranks, errors, packed layouts and whitening."""

from __future__ import annotations

import pytest
import torch
from support.oracle import DATA, bits_of, needs_golden, stacked_error, tensor_of

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.gpt_oss import FAMILY as GPT_OSS
from tensorpress.architectures.families.qwen3_moe import FAMILY as QWEN3_MOE
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.methods import td_moe

pytestmark = needs_golden


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
        ranks = td_moe.planned_ranks(shape, spec)
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
    from tensorpress.linalg.tucker import hosvd, multi_mode_dot
    from tensorpress.linalg.whitening import root_of

    names = {2: "input", 1: "output"}
    roots = {2: root_of(inner), 1: root_of(outer)}
    roots = {mode: root for mode, root in roots.items() if spec.whiten in (names[mode], "both")}
    if spec.whiten_root == "published":
        roots = {mode: root.inverse for mode, root in roots.items()}
    white = td_moe.whitened(stack.double(), roots)
    core, bases, _ = hosvd(white, {1: spec.ranks.out, 2: spec.ranks.in_})
    bases |= {mode: root.unwhiten(bases[mode], 0) for mode, root in roots.items()}
    return multi_mode_dot(core, {mode: basis.mT for mode, basis in bases.items()})
