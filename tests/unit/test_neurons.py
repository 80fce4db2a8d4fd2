"""Method ``neurons`` against closed forms: what is chosen, by what it errs, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import count_of, gradient_of
from tensorpress.errors import TensorpressError
from tensorpress.linalg.columns import greedy, output_error, refit
from tensorpress.methods.budget import Budget, Ranked
from tensorpress.methods.neurons import Spec, curves, decompose

OUT, INNER, TOKENS = 10, 24, 400


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """A weight, its inputs, which are correlated, and their moment; float64."""
    torch.manual_seed(0)
    inner = torch.randn(TOKENS, INNER).double() @ torch.randn(INNER, INNER).double()
    return torch.randn(OUT, INNER).double(), inner, inner.mT @ inner / TOKENS


def error(weight: Tensor, moment: Tensor, kept: Tensor) -> float:
    change = -weight.clone()
    change[:, kept] += refit(weight, moment, kept)
    return output_error(change, moment)


def test_gains_are_what_the_error_falls_by() -> None:
    weight, inner, moment = drawn()
    chosen = greedy(weight, moment, 9)
    kept = chosen.order
    left = float(
        (inner @ weight.mT - inner[:, kept] @ refit(weight, moment, kept).mT).square().sum()
    )
    assert error(weight, moment, kept) == pytest.approx(left / TOKENS, rel=1e-10)
    whole = output_error(weight, moment)
    assert whole - float(chosen.gains.sum()) == pytest.approx(left / TOKENS, rel=1e-8)
    best = torch.linalg.svdvals(weight @ torch.linalg.cholesky(moment))[9:].square().sum()
    assert left / TOKENS >= float(best)


def test_choices_nest_and_errors_fall() -> None:
    weight, _, moment = drawn()
    every = greedy(weight, moment, INNER).order
    errors = [error(weight, moment, every[:count]) for count in range(1, INNER + 1)]
    assert errors == sorted(errors, reverse=True)
    assert greedy(weight, moment, 7).order.tolist() == every[:7].tolist()
    torch.testing.assert_close(refit(weight, moment, every), weight[:, every])


def test_permuted_neurons_are_chosen_alike() -> None:
    weight, _, moment = drawn()
    order = torch.randperm(INNER)
    permuted = greedy(weight[:, order], moment[order][:, order], 8).order
    assert order[permuted].tolist() == greedy(weight, moment, 8).order.tolist()


def test_blocks_choose_nearly_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _, moment = drawn()
    one_by_one = greedy(weight, moment, 12)
    monkeypatch.setattr("tensorpress.linalg.columns.EXACT", 0)
    monkeypatch.setattr("tensorpress.linalg.columns.BLOCK", 3)
    blocks = greedy(weight, moment, 12)
    assert len(set(blocks.order.tolist())) == 12
    assert float(blocks.gains.sum()) > 0.95 * float(one_by_one.gains.sum())
    left = output_error(weight, moment) - float(blocks.gains.sum())
    assert left == pytest.approx(error(weight, moment, blocks.order), rel=1e-8)


def layer(slices: int = 1, number: int = 0) -> LayerShape:
    group = "ffn" if slices == 1 else "experts"
    table = {
        f"{group}.gate": ModuleShape(INNER, OUT, slices),
        f"{group}.up": ModuleShape(INNER, OUT, slices),
        f"{group}.down": ModuleShape(OUT, INNER, slices),
    }
    return LayerShape(OUT, 1, 1, OUT, table, number)


def made(shape: LayerShape) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and what calibration tells, of a layer whose neurons see independent inputs."""
    torch.manual_seed(1)
    weights, moments = {}, {}
    for module, size in shape.modules.items():
        weight = torch.randn(size.slices, size.out_features, size.in_features)
        inputs = torch.randn(size.slices, TOKENS, size.in_features)
        weights[module] = weight if size.slices > 1 else weight[0]
        moment = inputs.mT @ inputs / TOKENS
        moments[module] = moment if size.slices > 1 else moment[0]
        moments[gradient_of(module)] = torch.rand(size.slices, size.out_features)
        moments[count_of(module)] = torch.full((size.slices,), TOKENS)
    return weights, moments


@pytest.mark.parametrize("select", ["greedy", "leverage"])
def test_dead_and_duplicate_neurons_leave_no_error(select: str) -> None:
    shape = layer()
    weights, moments = made(shape)
    torch.manual_seed(2)
    own = torch.randn(TOKENS, 6)
    inner = torch.cat([own, 2 * own, -own, torch.zeros(TOKENS, 6)], dim=1)
    moments["ffn.down"] = inner.mT @ inner / TOKENS
    spec = Spec(method="neurons", neurons=12, select=select)
    (factors,) = decompose(weights, shape, spec, moments)
    down = factors.store.dense(2)
    assert bool(down.isfinite().all())
    exact = inner @ weights["ffn.down"].mT
    found = float((inner @ down.mT - exact).norm() / exact.norm())
    assert found == pytest.approx(factors.product_error, abs=1e-4)
    if select == "greedy":
        assert found < 1e-3


def test_what_is_kept_is_as_it_was() -> None:
    shape = layer()
    weights, moments = made(shape)
    (factors,) = decompose(weights, shape, Spec(method="neurons", neurons=INNER), moments)
    for index, module in enumerate(factors.modules):
        torch.testing.assert_close(factors.store.dense(index), weights[module])
    assert factors.product_error < 1e-6
    (factors,) = decompose(weights, shape, Spec(method="neurons", neurons=5), moments)
    kept = factors.store.places(0)
    assert torch.equal(factors.store.dense(1)[kept], weights["ffn.up"][kept])
    assert factors.store.packed() == {"kept": (INNER, 1)}


def test_an_expert_without_tokens_is_chosen_by_its_weights() -> None:
    shape = layer(slices=3)
    weights, moments = made(shape)
    moments["experts.down"][1] = 0
    moments[gradient_of("experts.down")][1] = 0
    moments[count_of("experts.down")][1] = 0
    (factors,) = decompose(weights, shape, Spec(method="neurons", neurons=4), moments)
    gate, up, down = (weights[module][1] for module in shape.modules)
    worth = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    kept = factors.store.places(2 * 3 + 1)
    assert kept.tolist() == worth.topk(4).indices.sort().values.tolist()
    torch.testing.assert_close(factors.store.dense(2 * 3 + 1)[:, kept], down[:, kept])


def test_neurons_of_super_weights_are_kept() -> None:
    shape = layer(number=2)
    weights, moments = made(shape)
    worst = int(greedy(weights["ffn.down"], moments["ffn.down"], INNER).order[-1])
    where = {"layer": 2, "row": 0, "column": worst}
    spec = Spec(method="neurons", neurons=4, super_weights=[where])
    (factors,) = decompose(weights, shape, spec, moments)
    assert worst in factors.store.places(0).tolist()
    plain = spec.model_copy(update={"super_weights": ()})
    assert worst not in decompose(weights, shape, plain, moments)[0].store.places(0).tolist()


def test_curves_are_the_damage_of_each_size() -> None:
    shape = layer(slices=2, number=3)
    weights, moments = made(shape)
    moments["experts.down"][1] = 0
    spec = Spec(method="neurons", budget={"saved": 0.5, "allocate": "loss"})
    known, unknown = curves(weights, shape, spec, moments, 2 * TOKENS)
    assert (known.layer, known.module, known.index) == (3, "experts.down", 0)
    assert known.rank_values == 3 * OUT
    assert known.whole_values == 3 * OUT * INNER
    weighed = moments[gradient_of("experts.down")][0].double().sqrt()[:, None]
    weighed = weighed * weights["experts.down"][0]
    moment = moments["experts.down"][0]
    chosen = greedy(weighed, moment, INNER)
    for count in (0, 1, 5, INNER):
        kept = chosen.order[:count]
        left = error(weighed, moment, kept) if count else output_error(weighed, moment)
        exact = left / 4  # half of it, for half of all tokens
        # later gains may be cut, so that none is above those before it
        assert known.damages[count] >= exact * (1 - 1e-5) - 1e-9
        assert count > 1 or known.damages[count] == pytest.approx(exact, rel=1e-5)
    assert set(unknown.damages) == {0.0}


def test_what_is_allocated_is_kept() -> None:
    budget = Budget(saved=0.5, allocate="loss")
    for rank, kept in ((7, 7), (None, INNER)):
        advised = (Ranked(module="ffn.down", ranks=(rank,)),)
        spec = Spec(method="neurons", budget=budget.model_copy(update={"ranks": advised}))
        assert spec.kept(layer(), "ffn") == kept
    each = Spec(method="neurons", budget={"saved": 0.5, "allocate": "loss"})
    with pytest.raises(TensorpressError, match=r"allowed: module, layer"):
        each.check(layer(slices=2), "experts")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"neurons": INNER + 1}, r"neurons: 25 is above the limit at ffn; allowed: 1 to 24"),
        (
            {"budget": {"saved": 0.99}},
            r"budget\.saved: 0\.99 leaves no room .*; allowed: up to 0\.95",
        ),
        (
            {"neurons": 4, "super_weights": [{"layer": 0, "row": 0, "column": 24}]},
            r"super_weights: \(0, 24\) is outside of ffn\.down; allowed: up to \(9, 23\)",
        ),
        (
            {"neurons": 1, "super_weights": [{"layer": 0, "row": 0, "column": c} for c in (1, 2)]},
            r"super_weights: 2 neurons of ffn\.down are more than the 1 .*; allowed: at most 1",
        ),
    ],
)
def test_refusals(settings: dict, said: str) -> None:
    with pytest.raises(TensorpressError, match=said):
        Spec(method="neurons", **settings).check(layer(), "ffn")


def test_a_budget_is_of_values_and_aligned() -> None:
    spec = Spec(method="neurons", budget={"saved": 0.5})
    assert spec.kept(layer(), "ffn") == 8  # of 12 that fit
    assert spec.model_copy(update={"alignment": 1}).kept(layer(), "ffn") == 12
