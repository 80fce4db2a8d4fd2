"""Hi-MoE's losses of one layer against its published router (golden2.json)."""

from __future__ import annotations

import pytest
import torch
from support.oracle import DATA2, needs_golden, tensor2_of
from torch import Tensor

from tensorpress.sources.embedded.routers import layer_loss
from tensorpress.sources.embedded.specs import RouterSpec

pytestmark = needs_golden

CONCENTRATION = {"global": "of_all", "group_conditional": "within_groups"}
CASES = [
    case
    for case in DATA2.get("hi_moe", ())
    if (case["entropy"], case["inter_mode"], case["intra_source"])
    == ("l2", "dense_group_mass", "raw")
]


def published_choice(logits: Tensor, mean: Tensor, case: dict) -> tuple[Tensor, Tensor]:
    """The experts of each token, so many of each group, and the running mean that they go by."""
    mean = case["beta"] * mean + (1 - case["beta"]) * logits.mean(0)
    groups = (logits - case["tau"] * mean).unflatten(1, (case["groups"], -1))
    inside = groups.topk(case["chosen_per_group"]).indices
    first = torch.arange(case["groups"])[:, None] * groups.shape[-1]
    return (inside + first).flatten(1), mean


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_published_ones(case: dict) -> None:
    weight, tokens = tensor2_of(case["router"]).double(), tensor2_of("tokens(121,64,16,0.3)")
    mean = torch.zeros(case["experts"], dtype=torch.float64)
    nothing = dict.fromkeys(("balance", "z", "intra", "inter"), 0.0)
    shipped = {"intra": case["lambda1"], "inter": case["lambda2"], "load_balance": 1.0, "z": 1.0}
    for step, expected in enumerate(case["steps"]):
        logits = (tokens.roll(7 * step, 0) + 0.3 * step) @ weight.T
        chosen, mean = published_choice(logits, mean, case)
        assert chosen.flatten().bincount(minlength=case["experts"]).tolist() == expected["counts"]
        for name, factor in shipped.items():
            field = "balance" if name == "load_balance" else name
            spec = RouterSpec(
                groups=case["groups"],
                concentration=CONCENTRATION[case["intra_mode"]],
                **{**nothing, field: factor},
            )
            loss = float(layer_loss(logits, chosen, spec))
            assert loss == pytest.approx(expected[name], rel=1e-5), name
