"""CP: planted components are found, the format is their sum, stacks are read as they should be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.layers import layer, relative, weights_of

from tensorpress.errors import TensorpressError
from tensorpress.linalg.cp import cp
from tensorpress.methods.cp import Spec, decompose
from tensorpress.methods.svd import Spec as SVD
from tensorpress.methods.svd import decompose as separate


def planted(slices: int, m: int, n: int, rank: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(side, rank, generator=draw).double() for side in (slices, m, n)]


def test_components_are_found_but_for_order_and_scale() -> None:
    factors = planted(4, 20, 26, 6)
    tensor = torch.einsum("sr,mr,nr->smn", *factors)
    found = cp(tensor, 6, starts=2, seed=0)
    assert found.error < 1e-5
    for mine, theirs in zip((found.mix, found.left, found.right), factors, strict=True):
        cosines = torch.nn.functional.normalize(mine, dim=0).mT @ torch.nn.functional.normalize(
            theirs, dim=0
        )
        assert (cosines.abs().amax(1) > 1 - 1e-6).all()
        assert sorted(cosines.abs().argmax(1).tolist()) == list(range(6))


def test_more_components_than_a_side_are_found_by_some_start() -> None:
    tensor = torch.einsum("sr,mr,nr->smn", *planted(6, 9, 8, 10))
    assert cp(tensor, 10, starts=5, seed=0).error < 1e-3


def test_more_starts_and_more_sweeps_never_err_more() -> None:
    tensor = torch.randn(3, 12, 10, generator=torch.Generator().manual_seed(0))
    by_starts = [cp(tensor, 7, starts, seed=0, sweeps=30).error for starts in (1, 3, 6)]
    by_sweeps = [cp(tensor, 7, 1, seed=0, sweeps=sweeps).error for sweeps in (1, 3, 10, 60)]
    for errors in (by_starts, by_sweeps):
        assert all(b <= a + 1e-12 for a, b in pairwise(errors))


def test_seeds_decide() -> None:
    tensor = torch.randn(3, 12, 10)
    one, same = (cp(tensor, 12, 2, seed=3, sweeps=5) for _ in range(2))
    assert torch.equal(one.left, same.left)
    other = cp(tensor, 12, 2, seed=4, sweeps=5)
    assert not torch.equal(one.left, other.left)


def test_a_stack_of_what_shares_components_is_exact() -> None:
    """Gate, up and the transpose of down, each of the same components, differently mixed."""
    shape = layer()
    mix, left, right = (each.float() for each in planted(3, 30, 24, 8))
    gate, up, down = ((left * weights) @ right.mT for weights in mix)
    weights = {"ffn.gate": gate, "ffn.up": up, "ffn.down": down.mT.contiguous()}
    (factors,) = decompose(weights, shape, Spec(method="cp", rank=8), None)
    assert factors.modules == ("ffn.gate", "ffn.up", "ffn.down")
    for index, module in enumerate(factors.modules):
        assert relative(factors.store.dense(index), weights[module]) < 1e-5
    assert factors.stored_values == 8 * (3 + 30 + 24)


def test_slices_that_share_nothing_are_separate_svds() -> None:
    """With a component for each direction that an SVD of each expert would keep."""
    shape = layer()
    weights = {"experts.up": torch.zeros(5, 30, 24)}
    draw = torch.Generator().manual_seed(0)
    for expert in range(4):
        sides = slice(7 * expert, 7 * expert + 7), slice(6 * expert, 6 * expert + 6)
        weights["experts.up"][expert, sides[0], sides[1]] = torch.randn(7, 6, generator=draw)
    whole = {**weights_of("experts", shape), **weights}
    apart = separate(whole, shape, SVD(method="svd", rank=2), None)
    together = decompose(whole, shape, Spec(method="cp", rank=8, starts=8), None)
    errors = []
    for found in (apart, together):
        (chosen,) = [each for each in found if each.modules == ("experts.up",)]
        rebuilt = torch.stack([chosen.store.dense(e) for e in range(5)])
        errors.append(relative(rebuilt, weights["experts.up"]))
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_grouped_queries_stack_what_is_alike() -> None:
    found = Spec(method="cp", rank=3).layouts(layer(kv_heads=2), "attention")
    assert [each.modules for each in found] == [
        ("attention.q", "attention.o"),
        ("attention.k", "attention.v"),
    ]
    assert [each.settings["transposed"] for each in found] == [[False, True], [False, False]]


def test_ranks_that_save_nothing_are_refused() -> None:
    with pytest.raises(TensorpressError, match=r"rank: 1000 is above the limit at ffn\.gate"):
        Spec(method="cp", rank=1000).check(layer(), "ffn")
