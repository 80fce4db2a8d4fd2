"""Matrices in two parts, against closed forms: pruned or rounded, and factors beside that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.oracle import bits_of, stacked_error
from support.stages import alone
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import bits, stored_tensors
from tensorpress.formats.base import Format
from tensorpress.formats.build import build
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import dense_store
from tensorpress.methods.registry import load
from tensorpress.methods.tt import Metric
from tensorpress.methods.two_parts import best_sum, weighed_square

OUT, IN = 24, 32
SPARSE, HYBRID = "sparse_plus_low_rank", "quantised_plus_correction"
BY_LOSS = {"saved": 0.5, "allocate": "loss"}


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def moment() -> Tensor:
    inputs = torch.randn(400, IN, generator=torch.Generator().manual_seed(1))
    mixed = inputs @ torch.randn(IN, IN, generator=torch.Generator().manual_seed(2))
    return mixed.mT @ mixed / 400


def spec_of(method: str, **settings: Any) -> MethodSpec:
    return load(method).Spec(method=method, **settings)


def fitted(method: str, weight: Tensor, moment: Tensor | None, **settings: Any) -> Format:
    spec, shape = spec_of(method, **settings), alone(weight)
    (module,) = shape.modules
    moments = {module: moment} if spec.needs_moments and moment is not None else None
    (factors,) = load(method).decompose({module: weight}, shape, spec, moments)
    return factors.store


def output_error(store: Format, weight: Tensor, moment: Tensor) -> float:
    gap, metric = store.dense(0).double() - weight.double(), Metric(moment.double()[None], None)
    whole = weighed_square(weight.double()[None], metric)
    return (weighed_square(gap[None], metric) / whole) ** 0.5


def nothing(rest: Tensor) -> Format:
    slices, out_features, in_features = rest.shape
    sizes = {"slices": slices, "out_features": out_features, "in_features": in_features}
    return build("zero", sizes)


def test_without_one_part_the_other_is_what_it_is_alone(weight: Tensor, moment: Tensor) -> None:
    def pruned(rest: Tensor) -> Format:
        return fitted("sparse", rest[0], moment, share=0.5)

    def low_rank(rest: Tensor) -> Format:
        return fitted("svd", rest[0], moment, rank=5, whiten="input")

    stack, metric = weight[None], Metric(moment[None], None)
    only = best_sum(stack, metric, pruned, nothing, [None], 2)
    assert torch.equal(only.dense(0), pruned(stack).dense(0))
    only = best_sum(stack, metric, nothing, low_rank, [None], 2)
    assert torch.equal(only.dense(0), low_rank(stack).dense(0))


def test_a_base_that_loses_nothing_needs_no_correction(weight: Tensor) -> None:
    def low_rank(rest: Tensor) -> Format:
        return fitted("svd", rest[0], None, rank=5)

    both = best_sum(weight[None], None, dense_store, low_rank, [None], 1)
    assert not bool(both.correction.dense(0).any())
    assert torch.equal(both.dense(0), weight)


def test_exact_halves_never_make_it_worse(weight: Tensor) -> None:
    settings = {"criterion": "magnitude", "share": 0.7, "rank": 4}
    errors = [
        stacked_error(fitted(SPARSE, weight, None, sweeps=sweeps, **settings), weight[None])
        for sweeps in (1, 2, 4, 8, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.98 * errors[0]


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_a_low_rank_brings_back_what_pruning_lost(
    criterion: str, weight: Tensor, moment: Tensor
) -> None:
    given = {"criterion": criterion, "pattern": "2:4"}
    alone_in = fitted("sparse", weight, moment, **given)
    both = fitted(SPARSE, weight, moment, rank=4, sweeps=3, **given)
    assert output_error(both, weight, moment) < 0.8 * output_error(alone_in, weight, moment)
    assert bits_of(both) == bits_of(alone_in) + 16 * 4 * (OUT + IN)


def test_a_budget_is_of_both_parts(weight: Tensor, moment: Tensor) -> None:
    store = fitted(SPARSE, weight, moment, budget={"saved": 0.3}, rank=2, sweeps=1)
    dense = 16 * weight.numel()
    assert 0 <= 0.7 * dense - bits_of(store) < 32
    settings = {"base": {"bits": 3}, "correction": {"bits": 8}, "budget": {"saved": 0.6}}
    store = fitted(HYBRID, weight, moment, **settings)
    rank = 8 * (OUT + IN) + 16 * (OUT + IN) / 64
    assert 0 <= 0.4 * dense - bits_of(store) < rank + 16


def test_grid_points_plus_a_preserved_rank_are_found(moment: Tensor) -> None:
    """A grid in some rows and columns, a larger matrix of rank 3 in the others."""
    torch.manual_seed(0)
    grid = torch.zeros(OUT, IN)
    grid[:12, :16] = torch.randint(-3, 4, (12, 16)) / 8
    grid[:12, :16:8] = 3 / 8  # the largest step in each group that has any
    weight = grid.clone()
    weight[12:, 16:] = 20 * torch.randn(12, 3) @ torch.randn(3, 16)
    settings = {
        "base": {"bits": 3, "group_size": 16}, "correction": {"rank": 3}, "whiten": "none",
    }  # fmt: skip
    preserved = fitted(HYBRID, weight, None, preserve=[1.0], **settings)
    assert stacked_error(preserved, weight[None]) < 1e-5
    torch.testing.assert_close(preserved.base.dense(0)[:12, :16], grid[:12, :16])
    corrected = fitted(HYBRID, weight, None, preserve=[0.0], **settings)
    assert stacked_error(corrected, weight[None]) > 1e-4
    best = fitted(HYBRID, weight, None, preserve=[0.0, 0.5, 1.0], **settings)
    assert torch.equal(best.dense(0), preserved.dense(0))


@pytest.mark.parametrize("quantiser", ["rtn", "gptq"])
def test_damage_never_rises_with_the_rank(quantiser: str, weight: Tensor, moment: Tensor) -> None:
    base = {"quantiser": quantiser, "bits": 2, "group_size": 16}
    errors = [
        output_error(
            fitted(HYBRID, weight, moment, base=base, correction={"rank": rank}), weight, moment
        )
        for rank in (1, 2, 4, 8, 16, OUT)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5  # a full rank gives the weight


@pytest.mark.parametrize("lost", [[0.1, 0.5], [0.5, 0.1]])
def test_the_best_pair_is_kept(lost: list[float], weight: Tensor) -> None:
    """Not the last, where a half makes it worse."""
    shares = iter(lost)

    def shrunk(rest: Tensor) -> Format:
        return dense_store(rest * (1 - next(shares)))

    both = best_sum(weight[None], None, shrunk, nothing, [None], 2)
    torch.testing.assert_close(both.dense(0), 0.9 * weight)


@pytest.mark.parametrize("quantiser", ["rtn", "gptq"])
def test_more_turns_are_no_worse(quantiser: str, weight: Tensor, moment: Tensor) -> None:
    base = {"bits": 2, "group_size": 16, "quantiser": quantiser}
    once, more = (
        output_error(
            fitted(HYBRID, weight, moment, base=base, correction={"rank": 8}, sweeps=sweeps),
            weight,
            moment,
        )
        for sweeps in (1, 4)
    )
    assert more <= once


@pytest.mark.parametrize("format", ["svd", "tt", "tucker"])
@pytest.mark.parametrize("bits_of_factors", [None, 6])
@pytest.mark.parametrize("experts", [False, True])
def test_corrections_are_counted_and_planned(
    format: str, bits_of_factors: int | None, experts: bool, moment: Tensor
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, OUT, IN) if experts else torch.randn(OUT, IN)
    inputs = moment.expand(3, -1, -1) if experts else moment
    correction = {"format": format, "rank": 6, "order": 2, "bits": bits_of_factors, "group_size": 8}
    settings = {"base": {"bits": 3, "group_size": 32}, "correction": correction}
    store = fitted(HYBRID, weight, inputs, **settings)
    (layout,) = spec_of(HYBRID, **settings).layouts(alone(weight), "experts" if experts else "ffn")
    planned = bits(stored_tensors(layout.build(), 0, replaced=True).values(), 16)
    base = weight.numel() * 3 + 16 * weight.numel() // 32
    assert bits_of(store) == planned == base + bits_of(store.correction)
    rounded = fitted(HYBRID, weight, inputs, base=settings["base"], correction={"rank": 1})
    weights = weight.view(-1, OUT, IN)
    assert stacked_error(store, weights) < stacked_error(rounded.base, weights)
    x = torch.randn(5, IN)
    torch.testing.assert_close(store.project(x, 0), x @ store.dense(0).mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (HYBRID, {}, "give exactly one of budget, correction.rank and correction.budget"),
        (HYBRID, {"correction": {"rank": 2, "budget": {"saved": 0.9}}}, "rank or budget, not both"),
        (HYBRID, {"correction": {"rank": 2}, "preserve": [1.5]}, "less than or equal to 1"),
        (SPARSE, {}, "give exactly one of share and budget, or a pattern N:M"),
        (SPARSE, {"budget": BY_LOSS}, "budget.allocate: 'loss' is not allowed for " + SPARSE),
        ("sparse", {"budget": BY_LOSS}, "budget.allocate: 'loss' is not allowed for sparse"),
        (HYBRID, {"budget": BY_LOSS}, "budget.allocate: 'loss' is not allowed for " + HYBRID),
    ],
)
def test_settings_that_say_nothing_or_too_much(
    method: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(method, **settings)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (HYBRID, {"correction": {"rank": 25}}, "correction.rank: 25 is above the limit at ffn.up"),
        (
            HYBRID,
            {"budget": {"saved": 0.9}},
            r"budget.saved: 0.9 leaves no room beside 4 bits at ffn.up; allowed: less than 0.734",
        ),
        (HYBRID, {"budget": {"saved": 0.1}, "correction": {"bits": 4}}, "as large as the weights"),
        (SPARSE, {"share": 0.5, "rank": 25}, "rank: 25 is above the limit at ffn.up"),
        (SPARSE, {"budget": {"saved": 0.9}, "rank": 20}, "budget.saved: 0.9 leaves nothing"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, settings: dict[str, Any], message: str) -> None:
    layer = LayerShape(1, 1, 1, 1, {"ffn.up": ModuleShape(OUT, IN)})
    with pytest.raises(TensorpressError, match=message):
        spec_of(method, **settings).check(layer, "ffn")


def test_a_hybrid_says_whether_it_holds_a_tensor_format() -> None:
    held = {
        format: spec_of(HYBRID, correction={"format": format, "rank": 2}).holds_tensor_format
        for format in ("svd", "tt", "tucker")
    }
    assert held == {"svd": False, "tt": True, "tucker": True}
    assert not spec_of(SPARSE, share=0.5).holds_tensor_format


def test_trains_and_outliers_in_turn_find_what_was_planted() -> None:
    """Which neither order of a single pass does."""
    torch.manual_seed(0)
    weight, settings = torch.randn(64, 96), {"order": 2, "rank": 3}
    weight = fitted("tt", weight, None, **settings).dense(0)
    weight.view(-1)[torch.randperm(64 * 96)[:20]] += 10 * weight.std()
    settings["outliers"] = 20.5 / (64 * 96)

    def error(split: str, sweeps: int = 1) -> float:
        store = fitted("tt_sparse", weight, None, split=split, sweeps=sweeps, **settings)
        return stacked_error(store, weight[None])

    assert min(error("outliers"), error("residual")) > 1e-2
    turns = [error("alternate", sweeps) for sweeps in (1, 4, 40)]
    assert turns[0] == error("residual")
    assert turns == sorted(turns, reverse=True)
    assert turns[-1] < 1e-5


@pytest.mark.parametrize("split", ["residual", "alternate"])
def test_entries_of_the_residual_are_exact(split: str, weight: Tensor, moment: Tensor) -> None:
    settings = {"order": 2, "rank": 3, "outliers": 0.02, "whiten": "input"}
    store = fitted("tt_sparse", weight, moment, split=split, **settings)
    places = store.coordinates(0)
    assert len(places[0]) == int(0.02 * OUT * IN)
    torch.testing.assert_close(store.dense(0)[places], weight[places])
    train = fitted("tt", weight, moment, order=2, rank=3, whiten="input")
    assert output_error(store, weight, moment) < output_error(train, weight, moment)
