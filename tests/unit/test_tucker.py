"""Tucker kernels: two ways to one subspace."""

from __future__ import annotations

import pytest
import torch

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.linalg import tucker
from tensorpress.linalg.gram import leading_right
from tensorpress.linalg.tucker import Leading, hosvd, multi_mode_dot, partial_tucker, smallest_first
from tensorpress.methods.registry import spec_class

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


def test_what_cannot_be_better_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank of both sides of two matrices, and so many of the other mode that nothing is lost."""
    swept: list[dict[int, int]] = []
    sweep = tucker._sweep
    monkeypatch.setattr(
        tucker,
        "_sweep",
        lambda tensor, ranks, *rest: swept.append(ranks) or sweep(tensor, ranks, *rest),
    )
    tensor = torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(0))
    core, bases = partial_tucker(tensor, {1: 12, 2: 6})
    assert not swept
    tail = torch.linalg.svdvals(tensor.double().flatten(0, 1))[6:]
    assert error(tensor, core, bases) == pytest.approx(float(tail.norm()), rel=1e-6)
    partial_tucker(tensor, {1: 8, 2: 6})
    assert swept


@pytest.mark.parametrize("ranks", [{1: 9, 2: 6}, {1: 20, 2: 12}, {0: 2, 1: 9, 2: 6}])
def test_several_sizes_begin_with_one_factorisation(ranks: dict[int, int]) -> None:
    tensor = torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(0))
    first = Leading.of(tensor, {0: 2, 1: 25, 2: 12} if 0 in ranks else {1: 25, 2: 12})
    assert smallest_first(tensor, ranks)[0] == (0 if 0 in ranks else 2)
    found, alone = partial_tucker(tensor, ranks, first=first), partial_tucker(tensor, ranks)
    assert error(tensor, *found) == pytest.approx(error(tensor, *alone), rel=1e-5)


@pytest.mark.parametrize("method", ["tucker_ffn", "sparse_tucker"])
@pytest.mark.parametrize("saved", [0.1, 0.3, 0.5, 0.9])
def test_a_budget_buys_no_rank_that_the_other_mode_makes_useless(method: str, saved: float) -> None:
    """A matrix of 64 x 24 has one rank; of two that share bases, rows may have twice as many."""
    modules = {"ffn.gate": (64, 24), "ffn.up": (64, 24), "ffn.down": (24, 64)}
    shape = LayerShape(24, 1, 1, 24, {name: ModuleShape(*sides) for name, sides in modules.items()})
    spec = spec_class(method)(method=method, budget={"saved": saved})
    for layout in spec.layouts(shape, "ffn"):
        sizes = layout.settings
        core = sizes["core"]["settings"] if "core" in sizes else None
        out, inner = (
            (sizes["out_rank"], sizes["in_rank"])
            if core is None
            else (core["out_features"], core["in_features"])
        )
        assert 1 <= out <= sizes["slices"] * inner
        assert 1 <= inner <= sizes["slices"] * out
