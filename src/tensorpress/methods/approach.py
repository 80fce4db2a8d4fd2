"""What a method is, as a fact: each says its approach, which decides how reports read it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

Approach = Literal[
    "tensor format",  # factors of a tensor network: tensor trains, Tucker
    "low rank",  # a product of two matrices, of which one may be made of what others share
    "quantisation",  # the weights themselves in fewer bits
    "pruning",  # weights, modules or layers left out
    "control",  # changes nothing
    "hybrid",  # one matrix as parts of several approaches, none of them small
    "mixture",  # different modules by different approaches
]

APPROACHES: tuple[Approach, ...] = get_args(Approach)
UNCOMPRESSED = "uncompressed"
"""Stands in results where no method was applied."""


def together(approaches: Collection[Approach]) -> Approach:
    """What modules of these approaches are as one: one approach, or a mixture of several.

    A control counts only where there is nothing else: it leaves modules as they are.
    """
    (first, *others) = set(approaches) - {"control"} or {"control"}
    return "mixture" if others else first
