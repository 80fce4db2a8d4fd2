"""COALA's ridge: between the SVD of the loss's metric and the plain one, finite everywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.layers import relative
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import gradient_of
from tensorpress.linalg.truncated_svd import truncated_svd, weighted_svd
from tensorpress.methods.svd import Spec, decompose

RANK = 5


def inputs(tokens: int = 400, width: int = 20) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(tokens, width, generator=draw) * torch.logspace(0, -3, width)


def weight(out: int, width: int = 20) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(1))


def rebuilt(matrix: Tensor, moment: Tensor, **settings: Any) -> Tensor:
    """What ``svd`` makes of one matrix."""
    spec = Spec.model_validate({"method": "svd", "rank": RANK, "whiten": "input", **settings})
    layer = LayerShape(1, 1, 1, 1, {"ffn.up": ModuleShape(*matrix.shape)})
    moments = {"ffn.up": moment, gradient_of("ffn.up"): torch.linspace(0.5, 3, len(matrix))}
    (factors,) = decompose({"ffn.up": matrix}, layer, spec, moments)
    return factors.store.dense(0)


@pytest.mark.parametrize("out", [12, 33])
def test_more_ridge_trades_outputs_for_weights(out: int) -> None:
    matrix, x = weight(out), inputs()
    moment = x.mT @ x / len(x)
    errors = []
    for ridge in (0.0, 1e-3, 0.1, 1.0, 10.0, 1e9):
        found = rebuilt(matrix, moment, ridge=ridge)
        errors.append((relative(x @ found.mT, x @ matrix.mT), relative(found, matrix)))
    assert all(b[0] >= a[0] * (1 - 1e-6) for a, b in pairwise(errors))
    assert all(b[1] <= a[1] * (1 + 1e-6) for a, b in pairwise(errors))
    left, right = weighted_svd(matrix, moment, RANK)
    assert errors[0][0] == pytest.approx(relative(x @ (left @ right).float().mT, x @ matrix.mT))
    left, right, _ = truncated_svd(matrix, RANK)
    torch.testing.assert_close(found, (left @ right).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("whiten", ["input", "both"])
def test_the_adaptive_ridge_is_the_one_of_its_definition(whiten: str) -> None:
    """By hand: what the factors without a ridge change, in outputs over weights."""
    matrix, x = weight(12).double(), inputs().double()
    moment = x.mT @ x / len(x)
    scale = torch.linspace(0.5, 3, 12).double().sqrt() if whiten == "both" else torch.ones(12)
    change = (rebuilt(matrix, moment, whiten=whiten) - matrix) * scale[:, None]
    share = 3 * torch.trace(change @ moment @ change.mT) / change.square().sum()
    share = share / moment.diagonal().mean()
    found = rebuilt(matrix, moment, whiten=whiten, ridge={"adaptive": 3.0})
    expected = rebuilt(matrix, moment, whiten=whiten, ridge=float(share))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert relative(found, rebuilt(matrix, moment, whiten=whiten)) > 1e-3


@pytest.mark.parametrize("settings", [{"ridge": 0.0}, {"ridge": {"adaptive": 1.0}}])
@pytest.mark.parametrize("tokens", [0, 3])
def test_inputs_that_span_little_give_finite_factors(settings: dict, tokens: int) -> None:
    matrix, x = weight(33), inputs(tokens)
    found = rebuilt(matrix, x.mT @ x / max(tokens, 1), **settings)
    assert torch.isfinite(found).all()
    if tokens:
        assert relative(x @ found.mT, x @ matrix.mT) < 1e-4
    else:
        left, right, _ = truncated_svd(matrix, RANK)
        torch.testing.assert_close(found, (left @ right).float(), atol=1e-5, rtol=1e-4)


def test_the_least_norm_holds_what_inputs_meet_and_no_more() -> None:
    matrix, x = weight(33), torch.randn(8, 20, generator=torch.Generator().manual_seed(2))
    moment = x.mT @ x / 8
    full, least = (rebuilt(matrix, moment, minimal_norm=each) for each in (False, True))
    torch.testing.assert_close(x @ least.mT, x @ full.mT, atol=1e-4, rtol=1e-4)
    unseen = torch.linalg.svd(x).Vh[8:]
    assert float((least @ unseen.mT).abs().max()) < 1e-5
    assert float((full @ unseen.mT).abs().max()) > 0.1
    nothing = rebuilt(matrix, torch.zeros(20, 20), minimal_norm=True)
    assert torch.equal(nothing, rebuilt(matrix, torch.zeros(20, 20)))


def test_moments_in_float32_are_enough() -> None:
    matrix, x = weight(12).double(), inputs().double()
    moment = x.mT @ x / len(x)
    wide, narrow = (rebuilt(matrix, each, ridge=0.01) for each in (moment, moment.float()))
    torch.testing.assert_close(narrow, wide, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 3, "ridge": 0.1}, "ridge belongs to whiten: input and both, not to 'none'"),
        ({"rank": 3, "minimal_norm": True}, "minimal_norm belongs to whiten"),
        ({"rank": 3, "whiten": "input", "ridge": -1}, "greater than or equal to 0"),
        ({"rank": 3, "whiten": "input", "ridge": {"adaptive": 0}}, "greater than 0"),
        (
            {
                "budget": {"saved": 0.5, "allocate": "loss"},
                "whiten": "both",
                "ridge": {"adaptive": 1},
            },
            "ridge: adaptive is not allowed with budget.allocate 'loss'",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Spec.model_validate({"method": "svd", **settings})


def test_factors_of_an_adaptive_ridge_serve_no_smaller_rank() -> None:
    assert not Spec(method="svd", rank=4, whiten="input", ridge={"adaptive": 1}).nested
    assert Spec(method="svd", rank=4, whiten="input", ridge=0.1).nested
