"""Tucker kernels: two ways to one subspace."""

from __future__ import annotations

import pytest
import torch

from tensorpress.linalg.gram import leading_right
from tensorpress.linalg.tucker import hosvd, multi_mode_dot

SHAPE = (5, 20, 24)


def error(tensor: torch.Tensor, core: torch.Tensor, bases: dict[int, torch.Tensor]) -> float:
    wide = {mode: basis.double().mT for mode, basis in bases.items()}
    return float((multi_mode_dot(core.double(), wide) - tensor.double()).norm())


@pytest.mark.parametrize("ranks", [{1: 16, 2: 24}, {2: 23}, {0: 4, 1: 19, 2: 18}, {1: 3, 2: 22}])
def test_reflections_span_what_ordered_bases_span(ranks: dict[int, int]) -> None:
    tensor = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(0))
    core, bases, spectra = hosvd(tensor, ranks, ordered=False)
    ordered_core, ordered_bases, ordered_spectra = hosvd(tensor, ranks)
    assert core.shape == ordered_core.shape
    assert error(tensor, core, bases) == pytest.approx(
        error(tensor, ordered_core, ordered_bases), rel=1e-6
    )
    for mode, basis in bases.items():
        wide, ordered = basis.double(), ordered_bases[mode].double()
        assert torch.allclose(wide.mT @ wide, torch.eye(ranks[mode]).double(), atol=1e-12)
        assert torch.allclose(wide @ wide.mT, ordered @ ordered.mT, atol=1e-6)
    assert all(torch.allclose(spectra[m], ordered_spectra[m]) for m in ordered_spectra)


def test_directions_that_are_axes_need_no_reflection() -> None:
    tensor = torch.zeros(3, 8, 8)
    tensor.diagonal(dim1=1, dim2=2).copy_(torch.tensor([2.0, 1, 3, 4, 5, 6, 7, 8]))
    core, bases, _ = hosvd(tensor, {1: 6, 2: 6}, ordered=False)
    left_out = torch.tensor([2.0, 1.0]).repeat(3)
    assert error(tensor, core, bases) == pytest.approx(float(left_out.norm()), rel=1e-6)


def test_an_exact_rank_is_recovered_without_order() -> None:
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(5, 15, 18, generator=generator)
    left, right = (torch.randn(n, r, generator=generator) for n, r in ((20, 15), (24, 18)))
    tensor = left @ core @ right.mT
    made = hosvd(tensor, {1: 15, 2: 18}, ordered=False)
    assert error(tensor, *made[:2]) <= 1e-6 * float(tensor.norm())


@pytest.mark.parametrize("joint", [False, True])
def test_vectors_beyond_the_rows_complete_the_basis(joint: bool) -> None:
    matrix = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    basis, squares = leading_right(matrix, 15, joint)
    identity = torch.eye(15, dtype=torch.float64)
    assert torch.allclose(basis.mT @ basis, identity.expand_as(basis.mT @ basis), atol=1e-12)
    assert torch.allclose(matrix.double() @ basis @ basis.mT, matrix.double(), atol=1e-6)
    assert squares.shape[-1] == (12 if joint else 6)
