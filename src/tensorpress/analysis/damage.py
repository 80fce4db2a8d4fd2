"""Predicted damage of changed weights, from moments alone: no evaluation.

To second order a change ``D`` of a weight changes the loss of a token by half of
``(g . D x)^2`` in the mean, with x the module's input and g the gradient of the loss by its output
(the empirical Fisher information). Taken apart like K-FAC (Martens & Grosse 2015) and with the
output gradients' second moment cut to its diagonal, that is ``1/2 sum_o E[g_o^2] (D E[x x^T]
D^T)_oo``. Effects of modules are taken to add up. It orders changes well; large damage, which is no
longer of second order, is larger than predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.sites import gradient_of, site_of
from tensorpress.errors import TensorpressError
from tensorpress.methods.factors import stacked

WHOLE = 256
"""Largest side of a moment whose symmetry is not worth the cuts."""


@dataclass(frozen=True)
class Sensitivity:
    """What calibration knows of a module with S slices: 1 unless experts.

    ``reached``: the share of all tokens that reach each slice.
    """

    moment: Float[Tensor, "slices in in"]
    gradient: Float[Tensor, "slices out"]
    reached: Float[Tensor, " slices"]


def sensitivity(sites: Mapping[str, Tensor], module: str, tokens: int) -> Sensitivity:
    """The sensitivity of a module from the tensors of a moments file and its token count.

    ``TensorpressError`` if the calibration took no gradients.
    """
    name = gradient_of(module)
    if name not in sites:
        raise TensorpressError(
            "calibration.gradients: false is not allowed where damage is predicted; allowed: true"
        )
    site, gradient = site_of(module), sites[name]
    counts = sites[f"{site}.tokens"].reshape(-1).to(gradient.device)
    return Sensitivity(
        stacked(sites[site]), gradient if gradient.ndim == 2 else gradient[None], counts / tokens
    )


def changes(
    weights: Mapping[str, Float[Tensor, "slices out in"]],
    rebuilt: Mapping[str, Float[Tensor, "slices out in"]],
    layer: LayerShape,
) -> dict[str, Float[Tensor, "slices out in"]]:
    """What is added to the weights of some modules of a layer, as far as any output reads it.

    Of neurons whose column of down is zero, rows of gate and up may be anything. Heads whose values
    were turned and cut, so that the last are zero, are o in the old basis: ``O' M`` where the new
    values are ``M V``; what rounding adds to these is left out.
    """
    found = {module: rebuilt[module] - weight for module, weight in weights.items()}
    for down in (module for module in rebuilt if module.endswith(".down")):
        unread = ~rebuilt[down].any(dim=1)
        for module in found.keys() & {down.replace("down", "gate"), down.replace("down", "up")}:
            found[module] = found[module].masked_fill(unread[..., None], 0.0)
    if {"attention.v", "attention.o"} <= rebuilt.keys() and layer.in_heads:
        stacks = (held["attention.v"][0].double() for held in (weights, rebuilt))
        v, turned = (stack.unflatten(0, (layer.kv_heads, -1)) for stack in stacks)
        if not turned[:, -1].any():
            back = torch.linalg.lstsq(v.mT, turned.mT).solution.mT
            o = rebuilt["attention.o"][0].double()
            o = o.unflatten(1, (layer.kv_heads, -1, layer.head_dim))
            old = torch.einsum("oahr,arw->oahw", o, back).flatten(1)
            found["attention.o"] = old.to(weights["attention.o"])[None] - weights["attention.o"]
            found["attention.v"] = torch.zeros_like(weights["attention.v"])
    return found


def damage_nats(change: Float[Tensor, "slices out in"], known: Sensitivity) -> float:
    """Predicted rise of the loss in nats per token when ``change`` is added to a weight."""
    outputs = _squares(change, known.moment).clamp_min(0.0)
    each = (outputs * known.gradient).sum(-1) * known.reached
    return 0.5 * float(each.double().sum())


def _squares(
    rows: Float[Tensor, "slices out in"], moment: Float[Tensor, "slices in in"]
) -> Float[Tensor, "slices out"]:
    """``x^T M x`` of every row x; M is symmetric, so half of its products tell all."""
    if len(moment[0]) <= WHOLE:
        return ((rows @ moment) * rows).sum(-1)
    half = len(moment[0]) // 2
    first, last = rows[..., :half], rows[..., half:]
    crossed = ((first @ moment[:, :half, half:]) * last).sum(-1)
    squares = _squares(first, moment[:, :half, :half]), _squares(last, moment[:, half:, half:])
    return squares[0] + squares[1] + 2 * crossed


def damage_of_ranks(
    weight: Float[Tensor, "slices out in"],
    left: Float[Tensor, "slices out rank"],
    right: Float[Tensor, "slices rank in"],
    known: Sensitivity,
) -> Float[Tensor, "slices ranks"]:
    """``damage_nats`` of each slice with the first 0, 1, ..., ``rank`` columns and rows of factors.

    With e what all of them leave of the weight and ``d_j = left_j right_j``, rank k changes it by
    ``-(e + sum_{j > k} d_j)``, so its damage is a sum over the products of these in the metric of
    the loss. Of factors made in that metric (``whiten: both``) the d are orthogonal.
    """
    found = []
    for matrix, columns, rows, moment, gradient, reached in zip(
        weight.double(), left.double(), right.double(), known.moment, known.gradient,
        known.reached, strict=True,
    ):  # fmt: skip
        weighed = columns.mT * gradient.double()
        received = rows @ moment.double()
        products = (weighed @ columns) * (received @ rows.mT)
        rest = matrix - columns @ rows
        crossed = ((weighed @ rest) * received).sum(1)
        own = products.diagonal() + 2 * (products.triu(1).sum(1) + crossed)
        least = ((rest @ moment.double()) * rest).sum(1) @ gradient.double()
        after = own.flip(0).cumsum(0).flip(0)
        total = least + torch.nn.functional.pad(after, (0, 1))
        found.append(0.5 * reached.double() * total.clamp_min(0.0))
    return torch.stack(found)
