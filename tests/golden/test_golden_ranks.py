"""SVD in the loss's own metric and ranks by predicted damage agree with the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.oracle import DATA2, needs_golden, tensor2_of

from tensorpress.analysis.allocation import Points, allocate, shares_by_importance
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


def test_ranks_are_between_the_optimum_and_the_reference_greedy() -> None:
    shared = DATA2["rank_allocation"]
    matrices = [(m["singular_values"], m["values_per_rank"]) for m in shared["matrices"]]
    # the file lists four of the six; the others stand among its fingerprints, and are square
    matrices.insert(2, ("spectrum(172,48,1.2)", 96))
    matrices.append(("spectrum(175,64,0.3,0.7)", 128))
    curves = []
    for spectrum, cost in matrices:
        squares = tensor2_of(spectrum).numpy() ** 2
        tails = np.append(squares[::-1].cumsum()[::-1], 0.0)
        curves.append(Points(cost * np.arange(len(tails)), 0.5 * tails))
    for case in shared["cases"]:
        optimum = case["optimum_dp"]
        given = [c.damages[k] for c, k in zip(curves, optimum["ranks"], strict=True)]
        assert sum(given) == pytest.approx(optimum["objective"], rel=1e-9)
        found = allocate(curves, case["allowed_values"])
        chosen = list(zip(curves, found.points, strict=True))
        assert sum(curve.values[rank] for curve, rank in chosen) <= case["allowed_values"]
        damage = sum(curve.damages[rank] for curve, rank in chosen)
        least, most = (case[n]["objective"] for n in ("optimum_dp", "greedy_density"))
        assert least * (1 - 1e-9) <= damage <= most * (1 + 1e-9), case["saved"]


def test_shares_of_layers_by_importance() -> None:
    """As FLAT-LLM's code, with its published importances of whole models."""
    flat = DATA2["flat_llm"]
    for case in flat["rank_allocation"]:
        name = case["importance"]
        published = flat["published_importances"].get(name)
        scores = tensor2_of(name).numpy() if published is None else np.array(published)
        found = shares_by_importance(scores, np.ones(len(scores)), case["kept"])
        tolerance = 1e-9 if published is None else 1e-6
        np.testing.assert_allclose(found, case["kept_per_layer"], rtol=tolerance)
