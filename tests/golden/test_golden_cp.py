"""CP agrees with tensorly's best of several starts, and finds what was planted."""

from __future__ import annotations

import pytest
import torch
from support.oracle import DATA2, needs_golden, tensor2_of

from tensorpress.linalg.cp import cp

pytestmark = needs_golden


def test_no_start_of_tensorly_ends_lower() -> None:
    for case in DATA2["cp"]:
        tensor = tensor2_of(case["input"])
        found = cp(tensor, case["rank"], starts=5, seed=0)
        values = case["rank"] * sum(tensor.shape)
        assert values == case["values"]
        best = min(value for name, value in case.items() if name.startswith("tensorly"))
        assert found.error <= best * 1.01 + 1e-6, case["input"]
        rebuilt = torch.einsum("sr,mr,nr->smn", found.mix, found.left, found.right)
        distance = (rebuilt - tensor.double()).norm() / tensor.double().norm()
        assert float(distance) == pytest.approx(found.error, abs=1e-9)
