"""How the activations of a compressed model lie to those of the original, token by token.

Pure functions on tensors. Five points of a layer are looked at: the residual stream that comes in,
what the attention gives, the stream with that added, what the FFN gives, and the stream that goes
out; and three deltas between points of the stream. ``after_attention`` is the stream that the
attention was added to, also where the FFN does not read it because both run in parallel (GPT-J,
GPT-NeoX).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

POINTS = ("layer_input", "attention_output", "after_attention", "ffn_output", "layer_output")
DELTAS = {
    "attention_delta": ("layer_input", "after_attention"),
    "ffn_delta": ("after_attention", "layer_output"),
    "layer_delta": ("layer_input", "layer_output"),
}
"""Name -> the points of the residual stream that it leads from and to."""

MEASURES = (
    "cosine",
    "angle_degrees",
    "norm_original",
    "norm_compressed",
    "norm_ratio",
    "relative_difference",
)


def with_deltas(
    points: Mapping[str, Float[Tensor, "tokens hidden"]],
) -> dict[str, Float[Tensor, "tokens hidden"]]:
    """The five points and the three deltas, in float64."""
    wide = {name: points[name].double() for name in POINTS}
    return wide | {name: wide[end] - wide[start] for name, (start, end) in DELTAS.items()}


def compare(
    original: Float[Tensor, "tokens hidden"], compressed: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, "measures tokens"]:
    """Each of ``MEASURES`` for every token, in float64.

    The ratio is compressed over original, the relative difference ``||c - o|| / ||o||``. The angle
    is ``2 atan2(||u - v||, ||u + v||)`` of the unit vectors (Kahan 2006), since the arc cosine
    loses half of the digits near 1; the cosine is that of it. What has no meaning is NaN: the
    angle to a zero vector, and what is relative to one.
    """
    first, second = original.double(), compressed.double()
    norms, others = first.norm(dim=-1), second.norm(dim=-1)
    unit, other_unit = first / norms[:, None], second / others[:, None]
    angle = 2 * torch.atan2((unit - other_unit).norm(dim=-1), (unit + other_unit).norm(dim=-1))
    ratio = torch.where(norms > 0, others / norms, torch.nan)
    difference = torch.where(norms > 0, (second - first).norm(dim=-1) / norms, torch.nan)
    return torch.stack([angle.cos(), angle.rad2deg(), norms, others, ratio, difference])


@dataclass(frozen=True)
class Summary:
    """Mean, median and standard deviation over the tokens that the measure has a meaning for."""

    mean: float
    median: float
    deviation: float
    tokens: int


def summarise(values: Float[Tensor, " tokens"]) -> Summary | None:
    """Summary of one measure, its NaNs left out; ``None`` if nothing is left."""
    known = values[~values.isnan()].double()
    if not len(known):
        return None
    middle = known.sort().values[[(len(known) - 1) // 2, len(known) // 2]].mean()
    return Summary(
        mean=float(known.mean()),
        median=float(middle),
        deviation=float(known.std(correction=0)),
        tokens=len(known),
    )
