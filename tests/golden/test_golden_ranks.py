"""SVD in the loss's own metric and ranks by predicted damage agree with the reference."""

from __future__ import annotations

import pytest
import torch
from support.oracle import DATA2, needs_golden, tensor2_of

from tensorpress.analysis.damage import Sensitivity, damage_nats
from tensorpress.linalg.truncated_svd import truncated_svd, weighted_svd

pytestmark = needs_golden


def test_svd_in_the_metric_of_the_loss() -> None:
    """Half the tail of the weighed spectrum is the damage, half that of weighing inputs alone."""
    for case in DATA2["rank_allocation"]["doubly_weighted_svd"]:
        weight, x, gradient = (
            tensor2_of(case[name]).double()[None] for name in ("weight", "inputs", "gradients")
        )
        moment = x.mT @ x / x.shape[1]
        known = Sensitivity(moment, gradient, torch.ones(1))
        plain = truncated_svd(weight, case["rank"])[:2]
        inputs = weighted_svd(weight, moment, case["rank"])
        both = weighted_svd(weight, moment, case["rank"], gradient)
        for name, (left, right), tolerance in (
            ("damage_plain", plain, 1e-6),
            ("damage_whiten_input", inputs, 1e-6),
            ("damage_whiten_both", both, 1e-6),
        ):
            predicted = damage_nats(left @ right - weight, known)
            assert predicted == pytest.approx(case[name], rel=tolerance), (name, case)
