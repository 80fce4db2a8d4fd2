"""Predicted damage against closed forms, and advice that spends its budget well."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from support.advice import found_in
from support.workspace import tiny_params, tiny_text

from tensorpress.analysis.damage import damage_nats, sensitivity
from tensorpress.analysis.knapsack import GAP, choose
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.moments import save_moments
from tensorpress.commands.advise import _study
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.methods.advised import Choice, Spec
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.advise import advise, alternatives
from tensorpress.stages.calibration import calibrate
from tensorpress.stages.decomposition import decompose_layer


def test_damage_is_half_the_mean_square_of_gradient_times_change() -> None:
    """Where output gradients are independent of the inputs and of each other, it is exact."""
    torch.manual_seed(0)
    x = torch.randn(200_000, 3) @ torch.randn(3, 3)
    g = torch.randn(200_000, 2) * torch.tensor([0.5, 2.0])
    change = torch.randn(2, 3)
    sites = {
        "ffn.down": x.mT @ x / len(x),
        "ffn.down.tokens": torch.tensor([len(x)]),
        "ffn.down.gradient": g.square().mean(0),
    }
    predicted = damage_nats(change[None], sensitivity(sites, "ffn.down", len(x)))
    measured = 0.5 * float(((x @ change.mT) * g).sum(1).square().mean())
    assert predicted == pytest.approx(measured, rel=0.02)


def test_damage_of_an_expert_counts_by_the_tokens_that_reach_it() -> None:
    identity = torch.eye(2).expand(2, 2, 2)
    sites = {
        "experts.down": identity,
        "experts.down.tokens": torch.tensor([30, 10]),
        "experts.down.gradient": torch.ones(2, 2),
    }
    known = sensitivity(sites, "experts.down", 40)
    first = damage_nats(torch.stack([torch.eye(2), torch.zeros(2, 2)]), known)
    second = damage_nats(torch.stack([torch.zeros(2, 2), torch.eye(2)]), known)
    assert (first, second) == (pytest.approx(0.75), pytest.approx(0.25))


def test_gradients_are_asked_for() -> None:
    with pytest.raises(TensorpressError, match=r"calibration\.gradients: false is not allowed"):
        sensitivity({"ffn.down": torch.eye(2)}, "ffn.down", 1)


def option(
    modules: tuple[str, ...], method: str, bits: int, damage: float, layer: int = 0
) -> Choice:
    return Choice(
        layer=layer, modules=modules, method=method, settings={}, bits=bits, dense_bits=100,
        damage=damage, ranks=(), macs=1, dense_macs=1,
    )  # fmt: skip


FFN = ("ffn.gate", "ffn.up", "ffn.down")


def covers(found: list[Choice], layer: int) -> list[list[Choice]]:
    """All ways to cover a layer's FFN: matrix by matrix, or by an option of the whole."""
    own = [c for c in found if c.layer == layer]
    singles = [[c for c in own if c.modules == (module,)] for module in FFN]
    whole = [[c] for c in own if c.modules == FFN]
    return [*(list(way) for way in itertools.product(*singles)), *whole]


def random_options(seed: int, size: int, damage: float) -> list[Choice]:
    """Options of two layers' FFN; bits to ``3 * size``, damages to ``damage``."""
    draw = random.Random(seed)
    found = []
    for layer in range(2):
        for modules, count in (*(((module,), 4) for module in FFN), (FFN, 2)):
            found.append(option(modules, "dense", size * len(modules), 0.0, layer))
            for _ in range(count):
                bits = draw.randint(1, size * len(modules))
                found.append(option(modules, "svd", bits, damage * draw.random() ** 4, layer))
    return found


@pytest.mark.parametrize(
    ("size", "damage"), [(20, 1.0), (16 * 4096 * 11008, 1e-7), (10**12 + 1, 1e5)]
)
def test_choice_is_the_best_there_is(size: int, damage: float) -> None:
    """Against all combinations, for bits and damages of any magnitude."""
    for seed in range(4):
        found = random_options(seed, size, damage)
        ways = [
            (sum(c.bits for c in way), sum(c.damage for c in way))
            for way in ([*a, *b] for a in covers(found, 0) for b in covers(found, 1))
        ]
        fewest = min(bits for bits, _ in ways)
        for allowed in (fewest, *(size * tenths // 10 for tenths in (15, 30, 45, 58))):
            if allowed < fewest:
                continue
            best = min(lost for bits, lost in ways if bits <= allowed)
            chosen = choose(found, allowed)
            assert sum(c.bits for c in chosen) <= allowed
            covered = sorted((c.layer, module) for c in chosen for module in c.modules)
            assert covered == sorted((layer, module) for layer in range(2) for module in FFN)
            assert sum(c.damage for c in chosen) <= best * (1 + GAP), (seed, allowed)
        with pytest.raises(
            TensorpressError, match=f"saved: the smallest options take {fewest} bits, more than"
        ):
            choose(found, fewest - 1)


def test_alternatives_are_of_the_same_size_or_smaller() -> None:
    gate = ("ffn.gate",)
    found = [
        option(gate, "svd", 50, 0.3),
        option(gate, "svd", 20, 0.9),
        option(gate, "tt", 45, 0.4),
    ]
    found += [option(gate, "rounding", 40, 0.1), option(gate, "tt", 80, 0.05)]
    names = [(c.method, c.bits) for c in alternatives(found, found[3])]
    assert names == [("rounding", 40), ("svd", 20)]


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_advice_meets_its_budget_and_is_carried_out(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory = request.getfixturevalue(f"{kind}_directory")
    model = load_model(directory, CPU)
    architecture = Checkpoint.open(directory).architecture
    shapes = architecture.shapes[:-1]
    windows = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
    layers = calibrate(model, architecture, windows, 4, CPU)
    save_moments(layers, windows.numel(), tmp_path / "moments")
    parameters = sum(p.numel() for p in load_model(directory, CPU).parameters())
    methods = ("svd", "td_moe", "neurons", "heads")
    found = [
        c for layer in range(len(shapes)) for c in found_in(directory, tmp_path, layer, methods)
    ]
    for quantise in (True, False):
        spec = Spec(method="advised", saved=0.2, quantise=quantise, methods=methods)
        advice = advise(found, spec, 32 * parameters)
        assert advice.dense_bits == 32 * parameters
        assert advice.stored_bits <= 0.8 * advice.dense_bits
        covered = sorted((m.chosen.layer, x) for m in advice.modules for x in m.chosen.modules)
        expected = sorted((i, x) for i, shape in enumerate(shapes) for x in shape.modules)
        assert covered == expected
        assert any(m.quantise for m in advice.modules) == quantise
        path = tmp_path / f"{quantise}.json"
        path.write_text(advice.model_dump_json(), encoding="utf-8")
        group = "experts" if kind == "moe" else "ffn"
        filled = spec.completed([path], 1)
        factors, _, _ = decompose_layer(
            directory, filled, group, 1, tmp_path / "moments/layer-001.safetensors", CPU
        )
        made = sorted(module for each in factors for module in each.modules)
        assert made == sorted(m for m in shapes[1].modules if m.startswith(group))
        used = {m.chosen.method for m in advice.modules}
        assert used <= {"dense", "rounding", *methods}


def test_a_plan_with_advice(llama_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(tiny_text(), encoding="utf-8")
    params = tiny_params() | {"external": [str(llama_directory), str(tmp_path)]}
    params["models"]["tiny"]["path"] = str(llama_directory)
    params["corpora"]["text"]["path"] = str(tmp_path / "text.txt")
    params["methods"]["best"] = {"method": "advised", "saved": 0.2}
    params["layer_sets"]["all"] = "all"
    steps = [{"modules": ["all"], "method": "best"}]
    params["tasks"]["predicted"] = {"kind": "prediction"}
    best = {**params["recipes"]["svd"], "steps": steps, "layers": ["all"]}
    params["recipes"]["best"] = {**best, "tasks": ["heldout", "predicted"]}
    plan = Plan(parse(params))
    (advice,) = plan.advices
    used = [p.decomposition for p in plan.used_decompositions if p.decomposition.advised]
    assert {d.group for d in used} == {"attention", "ffn"}
    assert {d.advised.id for d in used} == {advice}
    (predicted,) = (e for e in plan.evaluations.values() if e.task_name == "predicted")
    assert predicted.moments
    params["recipes"]["best"]["layers"] = ["one"]
    with pytest.raises(
        TensorpressError, match=r"recipes\.best\.steps\.0: a method that is advised"
    ):
        Plan(parse(params))
    params["recipes"]["best"]["layers"] = ["all"]
    params["calibration"]["gradients"] = False
    with pytest.raises(TensorpressError, match=r"calibration\.gradients: False is not allowed"):
        Plan(parse(params))
    params["methods"]["best"]["methods"] = ["drop"]
    with pytest.raises(TensorpressError, match=r"methods\.best\.methods.*'drop' takes no budget"):
        parse(params)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_the_command_finds_the_advice_of_a_study(inputs: Path, dtype: str) -> None:
    study = tiny_params() | {"compute": {"dtype": dtype}}
    study["methods"]["best"] = {"method": "advised", "saved": 0.2}
    study["recipes"]["best"] = study["recipes"]["svd"] | {
        "steps": [{"modules": ["all"], "method": "best"}],
        "layers": ["all"],
    }
    study["layer_sets"]["all"] = "all"
    params = parse(study)
    asked = Plan(_study("tiny", params, saved=0.2, quantise=True))
    assert set(asked.advices) == set(Plan(params).advices)
