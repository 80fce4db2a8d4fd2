"""Formats of kept entries: what is stored is what is kept, in the bits that were promised."""

from __future__ import annotations

import pytest
import torch
from support.formats import SETTINGS, filled
from support.oracle import bits_of
from torch import Tensor

from tensorpress.formats.build import build
from tensorpress.formats.rounded import rounded
from tensorpress.formats.sparse import Sparse
from tensorpress.formats.sum import Sum
from tensorpress.formats.two_four import TwoFour

OUT, IN = 20, 12
ENTRIES = OUT * IN


def with_kept(*counts: int) -> tuple[Tensor, Tensor]:
    """Weights ``(S, out, in)`` and masks that keep so many of each matrix."""
    torch.manual_seed(0)
    weight = torch.randn(len(counts), OUT, IN)
    masks = [torch.randperm(ENTRIES).view(OUT, IN) < count for count in counts]
    return weight, torch.stack(masks)


@pytest.mark.parametrize(
    ("counts", "index_bits"),
    [((120, 120), 2 * ENTRIES), ((100, 0), 2 * ENTRIES), ((20, 3), 9 * 23), ((0, 1), 9)],
)
def test_places_take_the_fewer_bits(counts: tuple[int, ...], index_bits: int) -> None:
    """A bit an entry, or 5 + 4 bits a coordinate."""
    weight, masks = with_kept(*counts)
    store = Sparse.of(weight, masks)
    assert torch.equal(store.stacked(), weight * masks)
    assert bits_of(store) == 16 * sum(counts) + index_bits
    assert store.places.numel() < index_bits / 8 + 3 * max(counts)  # packed on disk too
    again = build(**store.description)
    again.load_state_dict(store.state_dict())
    assert torch.equal(again.stacked(), store.stacked())


def test_two_four_takes_nine_bits_a_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, OUT, IN)
    masks = torch.zeros(3, OUT, IN // 4, 4, dtype=torch.bool)
    masks.scatter_(-1, torch.rand(masks.shape).argsort()[..., :2], True)
    store = TwoFour.of(weight, masks.flatten(2))
    assert torch.equal(store.stacked(), weight * masks.flatten(2))
    assert bits_of(store) == (8 + 1) * weight.numel()
    assert store.places.numel() == weight.numel() // 8


def test_a_moment_s_matrix_is_told() -> None:
    """The formats rebuild one matrix while they multiply; a sum rebuilds one part at a time."""
    for name in ("sparse", "two_four"):
        store = build(name, SETTINGS[name])
        assert store.peak_rebuilt_values() == store.out_features * store.in_features
    both = Sum(base=filled("sparse"), correction=filled("low_rank"))
    assert both.peak_rebuilt_values() == both.out_features * both.in_features


def test_a_sum_counts_and_applies_both_parts() -> None:
    base, correction = filled("two_four"), filled("low_rank")
    both = Sum(base=base, correction=correction)
    assert bits_of(both) == bits_of(base) + bits_of(correction)
    assert both.macs() == base.macs() + correction.macs()
    assert torch.equal(both.dense(1), base.dense(1) + correction.dense(1))


def test_codes_inside_of_a_sum_are_not_rounded_again() -> None:
    base = rounded(filled("dense"), 3, None, torch.float32)
    both = Sum(base=base, correction=filled("low_rank"))
    again = rounded(both, 8, None, torch.float32)
    error = again.dense(0) - both.dense(0)
    assert 0 < float(error.norm()) < 0.02 * float(both.correction.dense(0).norm())
    assert torch.equal(again.base__weight_codes, base.weight_codes)
    assert torch.equal(again.base__weight_scales, base.weight_scales)
    assert rounded(base, 8, None, torch.float32) is base
