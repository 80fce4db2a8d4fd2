"""Roots of second moments: what they weigh, what undoes it, and how small they may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tensorpress.linalg.gram import eigenpairs
from tensorpress.linalg.whitening import (
    congruence,
    mode_roots,
    output_mode_roots,
    output_roots,
    root_for,
)
from tensorpress.methods.cost import root_side


def moment_of(size: int, tokens: int = 400) -> Tensor:
    """Of correlated inputs, no direction of which is so rare that it would be clipped."""
    torch.manual_seed(0)
    inputs = torch.randn(tokens, size) @ (
        torch.eye(size) + torch.randn(size, size) / (2 * size**0.5)
    )
    return inputs.mT @ inputs / tokens


def test_eigenpairs_are_written_over_the_matrix() -> None:
    stack = torch.stack([moment_of(20), moment_of(20, 5)]).double()
    kept = stack.clone()
    values, vectors = eigenpairs(stack)
    assert vectors.untyped_storage().data_ptr() == stack.untyped_storage().data_ptr()
    torch.testing.assert_close((vectors * values[:, None]) @ vectors.mT, kept)


@pytest.mark.parametrize("rows", [7, 30, 50])
def test_a_root_weighs_as_the_moment_does_and_is_undone(rows: int) -> None:
    moment = moment_of(30)
    matrix = torch.randn(rows, 30)
    root = root_for(matrix, moment, rank=5)
    assert root.directions.shape == (30, min(rows, 30))
    white, wide = root.whiten(matrix), matrix.double()
    torch.testing.assert_close(white @ white.mT, wide @ moment.double() @ wide.mT)
    torch.testing.assert_close(root.unwhiten(white), wide)
    torch.testing.assert_close(root.inverse.unwhiten(root.inverse.whiten(matrix, 1), 1), wide)


def test_a_rank_above_the_rows_takes_the_whole_root() -> None:
    assert root_for(torch.randn(7, 30), moment_of(30), rank=8).directions.shape == (30, 30)


@pytest.mark.parametrize("moment", [moment_of(30, 4), torch.zeros(30, 30)], ids=["few", "none"])
def test_moments_of_few_tokens_can_be_undone(moment: Tensor) -> None:
    for matrix in (torch.randn(7, 30), torch.randn(40, 30)):
        root = root_for(matrix, moment, rank=3)
        torch.testing.assert_close(root.unwhiten(root.whiten(matrix)), matrix.double())


def test_congruence_takes_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    moment, matrices = moment_of(30).expand(2, 30, 30), torch.randn(2, 7, 30)
    expected = matrices.double() @ moment.double() @ matrices.double().mT
    for rows in (30, 8):
        monkeypatch.setattr("tensorpress.linalg.whitening.BLOCK_ROWS", rows)
        torch.testing.assert_close(congruence(matrices, moment), expected)


def test_mode_roots_are_exact_for_a_kronecker_product() -> None:
    factors = [moment_of(n) for n in (3, 4, 5)]
    moment = torch.kron(torch.kron(factors[0], factors[1]), factors[2])
    found = [
        (r.directions * r.values.square()) @ r.directions.mT for r in mode_roots(moment, (3, 4, 5))
    ]
    for square, factor in zip(found, factors, strict=True):
        torch.testing.assert_close(square, factor.double() / factor.diagonal().mean())


@pytest.mark.parametrize(("rows", "rank"), [(7, 5), (7, 8), (30, 5), (50, 5)])
def test_planning_knows_the_side_of_the_eigenproblem(rows: int, rank: int) -> None:
    root = root_for(torch.randn(rows, 30), moment_of(30), rank)
    assert len(root.values) == root_side(rows, 30, rank)


def test_weights_of_outputs_are_roots_of_gradients_and_can_be_undone() -> None:
    gradient = torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    # the mean root of the first row is 1
    expected = torch.tensor([[2.0, 1.0, 1e-3], [1.0, 1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(output_roots(gradient), expected)


def test_output_mode_roots_are_exact_for_a_kronecker_product() -> None:
    factors = [torch.rand(n).double() + 0.5 for n in (2, 3, 4)]
    gradient = torch.kron(torch.kron(factors[0], factors[1]), factors[2])
    found = output_mode_roots(gradient, (2, 3, 4))
    for root, factor in zip(found, factors, strict=True):
        torch.testing.assert_close(root.values.square(), factor / factor.mean())
        tensor = torch.randn(5, len(factor))
        torch.testing.assert_close(root.unwhiten(root.whiten(tensor)), tensor.double())
        torch.testing.assert_close(root.inverse.unwhiten(tensor), root.whiten(tensor))
