"""How an embedded encoder begins: its positions are waves, and its heads look at neighbours.

What is masked is known by its neighbours alone. A model that must first learn where these are stays
at the frequencies of single tokens for longer than all of the training here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

OFFSETS = (-1, 1, -2, 2)
"""Where the heads of a layer look at first, one after the other."""
SHARPNESS = 2.0
"""Scale of the scores; the position looked at is ahead of the next by about four times it."""
SIZE = 0.2
"""Root mean square of the positions, about that of trained tokens."""


def begin_at_neighbours(model: Any) -> None:
    """Give a BERT fixed sinusoids for positions (Vaswani et al. 2017) and such queries and keys.

    A head's keys are the fastest waves as they are, its queries the same waves ``OFFSETS`` further,
    so that scores are largest there at every position. Queries and keys are trained from there on.
    """
    encoder = model.base_model
    table = encoder.embeddings.position_embeddings.weight
    positions, hidden = table.shape
    table.data = SIZE * 2**0.5 * waves(torch.arange(positions), hidden)
    table.requires_grad_(False)
    heads = model.config.num_attention_heads
    width = hidden // heads
    keys = SHARPNESS**0.5 * torch.eye(width, hidden).repeat(heads, 1)
    turns = [turn(OFFSETS[head % len(OFFSETS)], width, hidden) for head in range(heads)]
    queries = torch.block_diag(*turns) @ keys
    for layer in encoder.encoder.layer:
        attention = layer.attention.self
        with torch.no_grad():
            attention.query.weight.add_(queries)
            attention.key.weight.add_(keys)


def rates(width: int, hidden: int) -> Tensor:
    """Radians from a position to the next of the fastest waves, a half of ``width`` many."""
    return math.pi * 1e4 ** -(torch.arange(0, width, 2) / hidden)


def waves(positions: Tensor, hidden: int) -> Tensor:
    """Sines and cosines ``(positions, hidden)`` in turn, the fastest first."""
    angles = positions[:, None] * rates(hidden, hidden)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


def turn(offset: int, width: int, hidden: int) -> Tensor:
    """What makes the fastest waves ``(width,)`` of a position those of one ``offset`` further."""
    angles = offset * rates(width, hidden)
    sines, cosines = angles.sin(), angles.cos()
    pairs = torch.stack([cosines, sines, -sines, cosines], 1).view(-1, 2, 2)
    return torch.block_diag(*pairs)
