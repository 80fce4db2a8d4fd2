"""Tensor trains of embedding tables at a given error, against TensorLearn's (golden2.json)."""

from __future__ import annotations

import math

import pytest
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
    """Ours may use all of the error, theirs leaves some: so at theirs ours is no larger."""
    table = tensor2_of(case["input"])
    shape = shape_of(case["dims"], table.shape[0])
    for error in (case["epsilon"], case["rel_err"] * (1 + 1e-5)):
        (train,) = trains_within(table[None].double(), shape, error)
        assert train.values <= case["values"]
        assert train.upper <= error
