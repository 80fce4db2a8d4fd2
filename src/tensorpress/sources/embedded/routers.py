"""What the routers of an embedded mixture learn beside its lessons: Hi-MoE's objective.

It is made of the router's logits alone and used while the model trains; what is trained routes each
token to its largest probabilities, as any Qwen3-MoE does, and keeps no groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorpress.sources.embedded.specs import RouterSpec

Groups = Float[Tensor, "tokens groups members"]
"""Probabilities of all experts, those of a group together."""


def hi_moe_loss(router_logits: Sequence[Tensor], chosen: int, spec: RouterSpec) -> Tensor:
    """Sum over layers, to be added to the cross-entropy; every token goes to ``chosen`` experts."""
    losses = []
    for logits in router_logits:
        experts = logits.float().topk(chosen).indices
        losses.append(layer_loss(logits.float(), experts, spec))
    return torch.stack(losses).sum()


def layer_loss(
    logits: Float[Tensor, "tokens experts"],
    chosen: Int[Tensor, "tokens chosen"],
    spec: RouterSpec,
) -> Tensor:
    """Hi-MoE's loss of one layer, with its weights.

    Balance of loads, size of logits (ST-MoE, eq. 5), minus how much of a group one expert takes,
    and how unequal the groups are: the mean over tokens of ``sum_g m_g^2`` of their masses ``m_g``.
    """
    probability = logits.softmax(-1)
    groups = probability.unflatten(-1, (spec.groups, -1))
    return (
        spec.balance * load_balance(probability, chosen)
        + spec.z * logits.logsumexp(-1).square().mean()
        - spec.intra * CONCENTRATION[spec.concentration](groups)
        + spec.inter * groups.sum(-1).square().sum(-1).mean()
    )


def load_balance(
    probability: Float[Tensor, "tokens experts"], chosen: Int[Tensor, "tokens chosen"]
) -> Tensor:
    """``E sum_e f_e mean(p_e)`` with ``f_e`` the assignments to an expert of a token."""
    experts = probability.shape[-1]
    assigned = nn.functional.one_hot(chosen, experts).to(probability).sum(1)
    return experts * (assigned.mean(0) * probability.mean(0)).sum()


def of_all(groups: Groups) -> Tensor:
    """``mean_t sum_e p_e^2``, as published: it grows when one group takes all, too."""
    return groups.square().sum((-2, -1)).mean()


def within_groups(groups: Groups) -> Tensor:
    """``mean_t mean_g sum_e (p_e / m_g)^2``: nothing but what a group does with its mass."""
    # in a group without mass nothing is concentrated, and nothing may divide by it
    mass = groups.sum(-1, keepdim=True).clamp_min(torch.finfo(groups.dtype).tiny)
    return (groups / mass).square().sum(-1).mean()


CONCENTRATION: dict[str, Callable[[Tensor], Tensor]] = {
    "of_all": of_all,
    "within_groups": within_groups,
}
"""Of ``RouterSpec.concentration``: what is rewarded."""
