"""Tensor trains of embedding tables at a given error, against TensorLearn's (golden2.json)."""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch
from support.oracle import DATA2, needs_golden, tensor2_of

from tensorpress.linalg.tt_shapes import TTShape
from tensorpress.linalg.weighted_train import trains_within

pytestmark = needs_golden
CASES = DATA2.get("saten", {}).get("embedding_tt", [])


def shape_of(dims: list[int], rows: int) -> TTShape:
    """The modes of a train whose first cores are of rows, the others of columns."""
    first = next(k for k in range(len(dims)) if math.prod(dims[: k + 1]) == rows) + 1
    ones = [1] * len(dims)
    return TTShape((*ones[:first], *dims[first:]), (*dims[:first], *ones[first:]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['dims']}-{case['epsilon']}")
def test_tables_within_an_error(case: dict) -> None:
    """Within the same bound ours stores no more, as it uses all of it.

    At the error that theirs reaches below the bound, equal shares for all bonds, which is their
    rule, store up to a third less of one of these tables (five modes of 8) than ours.
    """
    table = tensor2_of(case["input"])
    shape = shape_of(case["dims"], table.shape[0])
    (train,) = trains_within(table[None].double(), shape, case["epsilon"])
    assert train.values <= case["values"]
    assert train.upper <= case["epsilon"]
    joined = reduce(lambda left, core: torch.tensordot(left, core, dims=1), train.cores)
    pairs = joined.squeeze(0).squeeze(-1)
    found = pairs.permute(*range(1, pairs.ndim, 2), *range(0, pairs.ndim, 2)).reshape(table.shape)
    assert float((found - table).norm() / table.norm()) <= case["epsilon"]
