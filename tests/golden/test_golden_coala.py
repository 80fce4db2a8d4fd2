"""The ridge of weighted SVD agrees with COALA's solvers."""

from __future__ import annotations

import pytest
import torch
from support.layers import relative
from support.oracle import DATA2, needs_golden, tensor2_of

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.methods.svd import Spec, decompose

pytestmark = needs_golden

ROUND_OFF = 1e-6
"""Errors below it are nothing else."""


def test_ridges_err_as_theirs_in_outputs_and_weights() -> None:
    for case in DATA2["coala"]["cases"]:
        if case["dtype"] != "float64":
            continue
        weight, x = tensor2_of(case["weight"]), tensor2_of(case["inputs"]).double()
        moment = x.mT @ x / len(x)
        mean = float(moment.diagonal().mean())
        layer = LayerShape(1, 1, 1, 1, {"ffn.up": ModuleShape(*weight.shape)})
        settings = {
            "coala": {"ridge": 0.0},
            "coala_mu_0.01n": {"ridge": 0.01 / mean},
            "coala_mu_1.0n": {"ridge": 1.0 / mean},
            "coala_adaptive_2": {"ridge": {"adaptive": 2.0}},
            "coala_min_norm": {"ridge": 0.0, "minimal_norm": True},
        }
        for name, own in settings.items():
            if name not in case or case["coala"]["output_rel_err"] < ROUND_OFF:
                continue
            spec = Spec(method="svd", rank=case["rank"], whiten="input", **own)
            (factors,) = decompose({"ffn.up": weight}, layer, spec, {"ffn.up": moment})
            rebuilt, where = factors.store.dense(0).double(), (name, case["inputs"], case["rank"])
            theirs = case[name]
            assert relative(rebuilt, weight) == pytest.approx(theirs["weight_rel_err"], rel=1e-6), (
                where
            )
            output = relative(x @ rebuilt.mT, x @ weight.double().mT)
            # factors are stored in float32
            assert output == pytest.approx(theirs["output_rel_err"], rel=1e-6, abs=1e-9), where
            assert torch.isfinite(rebuilt).all()
