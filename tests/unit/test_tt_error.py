"""Tensor trains at a given error: it holds, nothing is wasted, and searched modes store less."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from support.workspace import tiny_params
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.linalg import shape_search
from tensorpress.linalg.tensor_train import tt_tensor
from tensorpress.linalg.tt_error import Sweeps
from tensorpress.linalg.tt_shapes import TTShape, train_values
from tensorpress.linalg.weighted_train import ModeRoots, train_targets
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import load
from tensorpress.methods.tt import Spec, decompose, modes_of

MODULE = "ffn.up"


def layer_of(weight: Tensor) -> LayerShape:
    slices = weight.shape[0] if weight.ndim == 3 else 1
    shape = ModuleShape(*weight.shape[-2:], slices)
    return LayerShape(24, 4, 4, 6, {MODULE if slices == 1 else "experts.up": shape})


def fit(weight: Tensor, moment: Tensor | None = None, **settings: object) -> Factors:
    layer = layer_of(weight)
    (module,) = layer.modules
    spec = Spec(method="tt", whiten="none" if moment is None else "input", **settings)
    spec.check(layer, module.split(".")[0])
    moments = None if moment is None else {module: moment}
    (factors,) = decompose({module: weight}, layer, spec, moments)
    return factors


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def spread(rows: int, columns: int, power: float) -> Tensor:
    """A random matrix whose k-th singular value is ``k^-power``."""
    torch.manual_seed(0)
    side = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(n, side)).Q for n in (rows, columns))
    return (left * torch.arange(1, side + 1) ** -power) @ right.mT


def swept(
    weight: Tensor, shape: TTShape, rank_at: Callable[[int, Tensor], int]
) -> tuple[list[int], float]:
    """Ranks and relative error of a TT-SVD; ``rank_at(k, tails)`` cuts the k-th unfolding."""
    modes = shape.modes
    rest = tt_tensor(weight.double(), shape)
    ranks, lost = [1] * (len(modes) + 1), 0.0
    for k in reversed(range(1, len(modes))):
        rest = rest.reshape(-1, modes[k] * ranks[k + 1])
        left, values, _ = torch.linalg.svd(rest, full_matrices=False)
        tails = torch.cat([values.square().flip(0).cumsum(0).flip(0), torch.zeros(1)])
        ranks[k] = rank_at(k, tails)
        lost += float(tails[ranks[k]])
        rest = left[:, : ranks[k]] * values[: ranks[k]]
    return ranks, math.sqrt(lost) / float(weight.double().norm())


def classical_values(weight: Tensor, shape: TTShape, error: float) -> int:
    """Values with ``delta = error ||A|| / sqrt(d - 1)`` at every bond (Oseledets 2011)."""
    allowed = (error * weight.double().norm()) ** 2 / (len(shape.modes) - 1)
    ranks, reached = swept(weight, shape, lambda _, tails: int((tails > allowed).sum()))
    assert reached <= error
    return train_values(shape.modes, ranks)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("error", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_error_holds_and_no_bond_could_be_cut(order: int, error: float, power: float) -> None:
    weight = spread(96, 64, power)
    factors = fit(weight, order=order, error=error)
    reached = relative(factors.store.dense(0), weight)
    assert reached <= error
    assert factors.lower_bound <= reached * (1 + 1e-6)
    assert reached <= factors.upper_bound * (1 + 1e-6) + 1e-6
    assert factors.upper_bound <= error
    shape, ranks = TTShape.balanced(64, 96, order), factors.store.settings["ranks"]
    assert factors.stored_values <= classical_values(weight, shape, error)
    for bond in range(1, order):
        fewer = [rank - (k == bond) for k, rank in enumerate(ranks)]
        if fewer[bond]:
            assert swept(weight, shape, lambda k, _, fewer=fewer: fewer[k])[1] > error


def test_the_error_is_nearly_reached_with_less_than_equal_shares_need() -> None:
    weight = spread(96, 64, 1.0)
    factors = fit(weight, order=5, error=0.5)
    assert relative(factors.store.dense(0), weight) > 0.49
    balanced = TTShape.balanced(64, 96, 5)
    assert factors.stored_values < 0.8 * classical_values(weight, balanced, 0.5)


def planted(*ranks: int) -> Tensor:
    """A TT-matrix of modes 4 x 4 and noise of a hundredth of its norm."""
    torch.manual_seed(0)
    first, last = ranks
    cores = [
        torch.randn(1, 4, 4, first),
        torch.randn(first, 4, 4, last),
        torch.randn(last, 4, 4, 1),
    ]
    exact = torch.einsum("aimb,bjnc,ckod->mnoijk", *cores).reshape(64, 64)
    noise = torch.randn(64, 64)
    return exact + 0.01 * noise * exact.norm() / noise.norm()


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_each_bond_finds_its_planted_rank(scale: float) -> None:
    factors = fit(scale * planted(3, 10), order=3, error=0.011)
    assert factors.store.settings["ranks"] == [1, 3, 10, 1]
    inputs = torch.randn(5, 64)
    outputs = inputs @ factors.store.dense(0).mT
    assert relative(factors.store.project(inputs, 0), outputs) < 1e-5


def test_a_sweep_spends_its_spare_once_and_never_passes_what_is_allowed() -> None:
    tensors = train_targets(spread(96, 64, 1.0)[None], TTShape.balanced(64, 96, 4), None)
    sweeps = Sweeps(tensors)
    caps, share = sweeps.capped(20), 0.1 * sweeps.energy
    spent = sweeps.run(caps.ranks, sweeps.energy, share)
    assert caps.lost + 0.05 * sweeps.energy < spent.lost <= caps.lost + share
    within = sweeps.run([1] * 5, share, torch.zeros(1))
    assert within.lost <= share < sweeps.capped(1).lost


def test_a_zero_matrix_has_rank_one() -> None:
    factors = fit(torch.zeros(24, 30), order=3, error=0.1)
    assert factors.store.settings["ranks"] == [1, 1, 1, 1]
    assert not factors.store.dense(0).any()


def test_every_expert_is_within_the_error_under_common_ranks() -> None:
    stack = torch.stack([planted(3, 10), 100 * planted(10, 3), torch.zeros(64, 64)])
    factors = fit(stack, order=3, error=0.011)
    assert factors.store.settings["ranks"] == [1, 10, 10, 1]
    assert max(relative(factors.store.dense(e), stack[e]) for e in (0, 1)) <= 0.011
    assert not factors.store.dense(2).any()


def test_plans_count_the_largest_that_may_be_stored() -> None:
    weight = spread(24, 30, 0.0)
    for error in (0.001, 0.5):
        spec = Spec(method="tt", order=3, error=error)
        (layout,) = spec.layouts(layer_of(weight), "ffn")
        factors = fit(weight, order=3, error=error)
        planned = sum(value.numel() for value in layout.build().state_dict().values())
        assert factors.stored_values <= planned
        assert modes_of(factors.store.settings) == modes_of(layout.settings)
    assert fit(weight, order=3, error=0.001).stored_values == planned


def ordered_pairs(number: int) -> list[tuple[int, int]]:
    return [(first, number // first) for first in range(1, number + 1) if number % first == 0]


def test_few_shapes_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains of two cores against singular values of all 16 unfoldings; nothing evolves."""
    monkeypatch.setattr(shape_search, "_evolve", None)
    torch.manual_seed(0)
    weight = torch.randn(10, 21) + 3 * torch.kron(torch.randn(5, 7), torch.randn(2, 3))
    sizes = []
    for outer in ordered_pairs(10):
        for inner in ordered_pairs(21):
            shape = TTShape(inner, outer)
            values = torch.linalg.svdvals(tt_tensor(weight, shape).double())
            tails = values.square().flip(0).cumsum(0).flip(0)
            rank = int((tails > (0.3 * weight.norm()) ** 2).sum())
            sizes.append(rank * sum(shape.modes))
    balanced = fit(weight, order=2, error=0.3)
    searched = fit(weight, order=2, error=0.3, shape="search")
    assert searched.stored_values == min(sizes) < balanced.stored_values
    assert searched.shape_gain == searched.stored_values / balanced.stored_values
    assert relative(searched.store.dense(0), weight) <= 0.3


def test_many_shapes_evolve_towards_a_planted_one() -> None:
    """Of low rank as a matrix, which balanced modes do not see."""
    torch.manual_seed(0)
    weight = torch.randn(64, 3) @ torch.randn(3, 96)
    weight += 0.1 * weight.std() * torch.randn(64, 96)
    balanced = fit(weight, order=3, error=0.2)
    searched = fit(weight, order=3, error=0.2, shape="search")
    assert balanced.shape_gain is None
    assert searched.shape_gain == searched.stored_values / balanced.stored_values < 0.2
    assert searched.stored_values <= 1.05 * 3 * (64 + 96)
    assert relative(searched.store.dense(0), weight) <= 0.2


@pytest.mark.parametrize("shape", ["balanced", "search"])
def test_whitened_trains_hold_the_error_of_the_whitened_matrix(shape: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(30, 24)
    parts = [torch.randn(4, 4), torch.randn(6, 6)]
    moment = torch.kron(*(part @ part.mT + torch.eye(len(part)) for part in parts))
    factors = fit(weight, moment, order=2, error=0.4, shape=shape)
    modes = modes_of(factors.store.settings)
    given = [ModeRoots.of(modes, moment)]
    white = train_targets(weight[None], modes, given)
    difference = train_targets(weight[None] - factors.store.dense(0), modes, given)
    assert 0.35 < float(difference.norm() / white.norm()) <= 0.4
    assert factors.upper_bound is None
    if shape == "balanced":  # its input modes are those of the moment's factors
        lost = factors.store.dense(0).double() - weight
        outputs = [float((w @ moment.double() * w).sum()) for w in (lost, weight.double())]
        assert 0.35 < math.sqrt(outputs[0] / outputs[1]) <= 0.4


@pytest.mark.parametrize("error", [0, 1, -0.1, 1.5, math.nan, "small"])
def test_errors_outside_of_zero_and_one_are_refused(error: object) -> None:
    params = tiny_params()
    params["methods"]["svd"] = {"method": "tt", "error": error}
    with pytest.raises(TensorpressError, match=r"methods\.svd\.error: .* is not allowed") as caught:
        parse(params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"rank": 4}, {"budget": {"saved": 0.5}}])
def test_the_error_stands_alone(other: dict) -> None:
    with pytest.raises(ValidationError, match="exactly one of rank and budget and error"):
        Spec(method="tt", error=0.3, **other)


@pytest.mark.parametrize("method", ["tt_sparse", "tt_per_head"])
def test_other_trains_take_no_error(method: str) -> None:
    with pytest.raises(ValidationError, match="error"):
        load(method).Spec(method=method, error=0.3)
