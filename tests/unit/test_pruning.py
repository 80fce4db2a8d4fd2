"""Pruning against closed forms, and what its settings refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.oracle import bits_of
from support.stages import alone
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.published import SuperWeight
from tensorpress.errors import TensorpressError
from tensorpress.linalg.compensation import corrections
from tensorpress.linalg.pruning import Pattern, by_magnitude, by_sparsegpt, by_wanda
from tensorpress.methods import sparse
from tensorpress.methods.factors import Factors

OUT, IN = 24, 32
CRITERIA = ["magnitude", "wanda", "sparsegpt"]


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def moment() -> Tensor:
    inputs = torch.randn(400, IN, generator=torch.Generator().manual_seed(1))
    mixed = inputs @ torch.randn(IN, IN, generator=torch.Generator().manual_seed(2))
    return mixed.mT @ mixed / 400


def output_error(found: Tensor, weight: Tensor, moment: Tensor) -> float:
    gap = (found - weight).double()
    return float(((gap @ moment.double()) * gap).sum()) ** 0.5


def pruned(weight: Tensor, moment: Tensor | None, **settings: Any) -> Factors:
    spec = sparse.Spec(method="sparse", **settings)
    module = "experts.up" if weight.ndim == 3 else "ffn.up"
    moments = None if moment is None else {module: moment}
    (factors,) = sparse.decompose({module: weight}, alone(weight), spec, moments)
    return factors


def test_uncorrelated_inputs_mend_nothing(weight: Tensor) -> None:
    """Of a diagonal moment the scores are ``w^2 (C_jj + damping)``, and kept weights stay."""
    variances = torch.logspace(-2, 1, IN)
    pattern = Pattern(OUT * IN // 2)
    found, mask = by_sparsegpt(weight, variances.diag(), pattern, IN, 0.01)
    scores = weight.square() * (variances + 0.01 * variances.mean())
    assert torch.equal(mask, by_magnitude(scores, pattern))
    torch.testing.assert_close(found, weight * mask)


def test_the_two_largest_of_four_stay_where_inputs_are_alike(weight: Tensor) -> None:
    for criterion in CRITERIA:
        factors = pruned(weight, torch.eye(IN), criterion=criterion, pattern="2:4")
        groups = weight.abs().view(OUT, -1, 4)
        largest = groups >= groups.sort(-1).values[..., 2:3]
        torch.testing.assert_close(factors.store.dense(0), weight * largest.view(OUT, IN))
        assert factors.store.name == "two_four"
        assert bits_of(factors.store) == 9 * OUT * IN


def test_wanda_of_like_inputs_is_magnitude_by_rows(weight: Tensor) -> None:
    mask = by_wanda(weight, torch.eye(IN), Pattern(OUT * 11))
    assert mask.sum(1).tolist() == [IN - 11] * OUT
    for row, kept in zip(weight.abs(), mask, strict=True):
        assert row[kept].min() > row[~kept].max()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_planted_pattern_is_returned_unchanged(
    criterion: str, weight: Tensor, moment: Tensor
) -> None:
    planted = weight * by_magnitude(weight, Pattern(0, (2, 4)))
    found = pruned(planted, moment, criterion=criterion, pattern="2:4").store.dense(0)
    torch.testing.assert_close(found, planted)


@pytest.mark.parametrize(
    "pattern", [Pattern(OUT * IN // 2), Pattern(0, (2, 4)), Pattern(0, (1, 8))]
)
def test_sparsegpt_errs_less_than_its_mask_alone(
    pattern: Pattern, weight: Tensor, moment: Tensor
) -> None:
    found, mask = by_sparsegpt(weight, moment, pattern, 16, 0.01)
    mended, masked = (output_error(w, weight, moment) for w in (found, weight * mask))
    assert mended < 0.95 * masked
    wanda = weight * by_wanda(weight, moment, pattern)
    assert mended < 0.95 * output_error(wanda, weight, moment)


def test_errors_of_columns_add_up_to_that_of_the_outputs(weight: Tensor, moment: Tensor) -> None:
    """``sum err^2 = tr D H D^T`` with H damped: what SparseGPT's code reports as its loss."""
    count = IN
    order = torch.arange(count - 1, -1, -1)
    pull, scale = corrections(moment, order, 0.01)
    root = (pull * scale[:, None]).flip(0, 1)
    damped = moment.double() + 0.01 * moment.diagonal().double().mean() * torch.eye(count)
    torch.testing.assert_close(root.mT @ root, torch.linalg.inv(damped))
    torch.testing.assert_close(root, root.triu())
    found, _ = by_sparsegpt(weight, moment, Pattern(OUT * IN // 2), 8, 0.01)
    # each column's error is its change of the outputs that later columns cannot make up for
    gap = (found - weight).double()
    errors = torch.linalg.solve_triangular(root, gap, upper=True, left=False)
    assert float(errors.square().sum()) == pytest.approx(float(((gap @ damped) * gap).sum()))


@pytest.mark.parametrize(("block", "share"), [(5, 0.37), (IN, 0.5), (64, 0.9)])
def test_exactly_the_share_goes(block: int, share: float, weight: Tensor, moment: Tensor) -> None:
    for how in ({"criterion": "magnitude"}, {"criterion": "sparsegpt", "block": block}):
        for flat in (weight, torch.ones_like(weight)):  # equal scores too
            store = pruned(flat, moment, share=share, **how).store
            assert OUT * IN - store.kept[0] == round(share * OUT * IN)
    published = pruned(weight, moment, share=share, block=block, threshold="published").store
    assert published.kept[0] < OUT * IN - round(share * OUT * IN)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_experts_without_tokens_are_pruned_by_magnitude(criterion: str, moment: Tensor) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, OUT, IN)
    inputs = torch.stack([torch.zeros_like(moment), moment])
    found = pruned(weight, inputs, criterion=criterion, share=0.5).store
    alone_in = pruned(weight, None, criterion="magnitude", share=0.5).store
    assert torch.equal(found.dense(0), alone_in.dense(0))
    assert torch.equal(found.dense(1), alone_in.dense(1)) == (criterion == "magnitude")


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("size", [{"share": 0.9}, {"pattern": "2:4"}])
def test_super_weights_survive(
    criterion: str, size: dict[str, Any], weight: Tensor, moment: Tensor
) -> None:
    """A small entry stays, exactly, in its layer and module only."""
    row, column = 5, 17
    weight[row, column] = 1e-6
    place = {"layer": -1, "module": "ffn.up", "row": row, "column": column}
    given = sparse.Spec.model_validate({"method": "sparse", "criterion": criterion, **size})
    assert (
        float(pruned(weight, moment, criterion=criterion, **size).store.dense(0)[row, column]) == 0
    )
    layer = LayerShape(1, 1, 1, 1, alone(weight).modules, number=3)
    spec = given.model_copy(update={"super_weights": (SuperWeight(**{**place, "layer": 3}),)})
    (factors,) = sparse.decompose({"ffn.up": weight}, layer, spec, {"ffn.up": moment})
    assert factors.store.dense(0)[row, column] == weight[row, column]
    assert spec.depends_on_layer_index
    assert not given.depends_on_layer_index


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give exactly one of share and budget, or a pattern N:M"),
        ({"share": 0.5, "budget": {"saved": 0.5}}, "give exactly one of share and budget"),
        ({"share": 0.5, "pattern": "2:4"}, "share is not allowed where pattern 2:4 says it"),
        ({"pattern": "4:2"}, "allowed: unstructured, or N:M with N from 1 to M - 1, such as 2:4"),
        ({"pattern": "2"}, "allowed: unstructured, or N:M"),
        ({"pattern": "2:4", "block": 6}, "block: 6 cuts groups of 2:4; allowed: multiples of 4"),
    ],
)
def test_settings_that_say_nothing_or_too_much(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse.Spec(method="sparse", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pattern": "2:5", "block": 5},
            "pattern: 2:5 does not divide the 32 inputs of ffn.up; allowed: unstructured, or N:M",
        ),
        ({"share": 0.9999}, "share: 0.9999 leaves nothing of ffn.up; allowed: less"),
        ({"budget": {"saved": 0.999}}, "budget.saved: 0.999 leaves nothing of ffn.up"),
        (
            {
                "share": 0.5,
                "super_weights": [{"layer": 3, "module": "ffn.up", "row": 24, "column": 0}],
            },
            r"super_weights: \(24, 0\) is outside of ffn.up; allowed: up to \(23, 31\)",
        ),
        (
            {
                "pattern": "2:4",
                "super_weights": [
                    {"layer": 3, "module": "ffn.up", "row": 1, "column": c} for c in (4, 6, 7)
                ],
            },
            "super_weights: 3 of ffn.up lie in one group of 2:4; allowed: 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    layer = LayerShape(1, 1, 1, 1, {"ffn.up": ModuleShape(OUT, IN)}, number=3)
    with pytest.raises(TensorpressError, match=message):
        sparse.Spec(method="sparse", **settings).check(layer, "ffn")


def test_an_embedding_has_no_inputs_to_weigh() -> None:
    layer = LayerShape(1, 1, 1, 1, {"embedding": ModuleShape(OUT, IN)})
    sparse.Spec(method="sparse", share=0.5, criterion="magnitude").check(layer, "embedding")
    with pytest.raises(TensorpressError, match="criterion: 'sparsegpt' weighs inputs"):
        sparse.Spec(method="sparse", share=0.5).check(layer, "embedding")


@pytest.mark.parametrize(
    ("criterion", "saved"),
    [*((c, s) for c in CRITERIA for s in (0.1, 0.5, 0.9)), ("magnitude", 0.99)],
)
def test_a_budget_counts_masks_and_coordinates(
    criterion: str, saved: float, moment: Tensor
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 60, IN)
    moments = moment.expand(3, -1, -1)
    store = pruned(weight, moments, criterion=criterion, budget={"saved": saved}).store
    dense = 16 * weight.numel()
    # Wanda gives every row as many
    slack = 3 * 60 * 27 if criterion == "wanda" else 3 * 27
    assert 0 <= (1 - saved) * dense - bits_of(store) <= slack
    assert store.has_mask == (saved < 0.9)
