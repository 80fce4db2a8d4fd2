"""One factorisation serves all smaller ranks wherever truncation is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.workspace import tiny_params, tiny_text

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.config.params import parse
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import load
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.decomposition import decompose_layer, truncate

EXPERTS = {"experts.up": ModuleShape(24, 40, 4)}
MATRIX = {"ffn.up": ModuleShape(24, 40)}
CASES = {
    "svd": (MATRIX, {"rank": 12}, {"rank": 5}),
    "svd of experts": (EXPERTS, {"rank": 12}, {"budget": {"saved": 0.6}}),
    "svd whitened": (MATRIX, {"rank": 12, "whiten": "input"}, {"rank": 5, "whiten": "input"}),
    "td_moe": (EXPERTS, {"ranks": {"out": 16, "in": 24}}, {"ranks": {"out": 8, "in": 24}}),
    "td_moe compress": (
        EXPERTS,
        {"experts": "compress", "ranks": {"out": 16, "in": 24, "expert": 3}},
        {"experts": "compress", "ranks": {"out": 9, "in": 8, "expert": 2}},
    ),
    "td_moe whitened": (
        EXPERTS,
        {"whiten": "both", "ranks": {"out": 16, "in": 24}},
        {"whiten": "both", "ranks": {"out": 8, "in": 16}},
    ),
}


def dense(factors: list[Factors]) -> torch.Tensor:
    (only,) = factors
    return torch.stack([only.store.dense(i) for i in range(only.store.slices)])


@pytest.mark.parametrize("name", list(CASES))
def test_leading_blocks_are_the_smaller_factors(name: str, tmp_path: Path) -> None:
    modules, large, small = CASES[name]
    (module, shape), method = next(iter(modules.items())), name.split()[0]
    layer = LayerShape(1, 1, 1, 1, modules)
    group = module.split(".")[0]
    torch.manual_seed(0)
    sizes = (shape.slices, shape.out_features, shape.in_features)
    weight = torch.randn(*sizes) * torch.linspace(1, 0.1, shape.in_features)
    x = torch.randn(shape.slices, 60, shape.in_features)
    moment = x.mT @ x / 60
    if shape.slices == 1:
        weight, moment = weight[0], moment[0]
    specs = [load(method).Spec(method=method, **settings) for settings in (large, small)]
    moments = {module: moment} if specs[0].needs_moments else None
    assert specs[0].contains_factors_of(specs[1], layer, group)
    assert not specs[1].contains_factors_of(specs[0], layer, group)
    larger, direct = (load(method).decompose({module: weight}, layer, s, moments) for s in specs)
    save_factors(larger, tmp_path / "f.safetensors")
    cut = truncate(tmp_path / "f.safetensors", specs[1], layer, group)
    assert torch.allclose(dense(cut), dense(direct), atol=1e-5)
    assert cut[0].stored_values == direct[0].stored_values
    assert cut[0].lower_bound == pytest.approx(direct[0].lower_bound, rel=1e-5)
    expected = direct[0].upper_bound
    assert cut[0].upper_bound == (None if expected is None else pytest.approx(expected, rel=1e-5))


def test_what_does_not_nest_is_not_served() -> None:
    layer = LayerShape(1, 1, 1, 1, {**MATRIX, **EXPERTS})

    def serves(method: str, group: str, one: dict, other: dict) -> bool:
        large, small = (load(method).Spec(method=method, **s) for s in (one, other))
        return large.contains_factors_of(small, layer, group)

    whitened = {"rank": 4, "whiten": "input"}
    assert not serves("svd", "ffn", {"rank": 8}, whitened)
    assert not serves("tt", "ffn", {"order": 3, "rank": 8}, {"order": 3, "rank": 4})
    assert not serves("td_moe", "experts", {"ratio": 0.2}, {"ratio": 0.4})
    # a basis of full size is the identity: its first columns are not the leading ones
    full, small = {"ranks": {"out": 24, "in": 16}}, {"ranks": {"out": 8, "in": 16}}
    assert not serves("td_moe", "experts", full, small)


@pytest.fixture
def plan(llama_directory: Path, tmp_path: Path) -> Plan:
    (tmp_path / "text.txt").write_text(tiny_text(), encoding="utf-8")
    params = tiny_params() | {"external": [str(llama_directory), str(tmp_path)]}
    params["models"]["tiny"]["path"] = str(llama_directory)
    params["corpora"]["text"]["path"] = str(tmp_path / "text.txt")
    for name, rank in {"svd": 8, "svd-4": 4, "svd-2": 2}.items():
        params["methods"][name] = {"method": "svd", "rank": rank}
        step = {"modules": ["ffn"], "method": name}
        params["recipes"][name] = {**params["recipes"]["svd"], "steps": [step]}
    return Plan(parse(params))


def test_a_plan_factorises_once(plan: Plan, llama_directory: Path, tmp_path: Path) -> None:
    used = [p for p in plan.used_decompositions if p.decomposition.spec.method == "svd"]
    sources = {p.decomposition.method_name: plan.larger(p.decomposition.id, 1) for p in used}
    (largest,) = (p for p in used if p.decomposition.method_name == "svd")
    assert sources == {"svd": [], "svd-4": [largest.factors], "svd-2": [largest.factors]}
    for each in sorted(used, key=lambda p: -p.decomposition.spec.rank):
        made, path = each.decomposition, tmp_path / f"{each.decomposition.method_name}.safetensors"
        source = tmp_path / "svd.safetensors" if plan.larger(made.id, 1) else None
        factors, _, weights = decompose_layer(
            llama_directory, made.spec, "ffn", 1, None, CPU, source
        )
        save_factors(factors, path)
        for each_set in factors:
            weight = weights[each_set.modules[0]].double()
            error = float((each_set.store.dense(0).double() - weight).norm() / weight.norm())
            assert error == pytest.approx(each_set.lower_bound, rel=1e-5)
