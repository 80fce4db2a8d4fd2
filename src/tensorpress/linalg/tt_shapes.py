"""Mode sizes and ranks of a TT-matrix, from shapes alone. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

UNEVEN = 2
"""Largest ratio of two modes of a padded side."""
EXACT_SIDE = 1024
"""Largest side of an unfolding of which the bounds take the whole spectrum."""


@dataclass(frozen=True)
class TTShape:
    """Input and output modes of a TT-matrix; core k has the pair (input k, output k)."""

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]

    @classmethod
    def balanced(cls, in_features: int, out_features: int, order: int) -> TTShape:
        """Modes as equal as the primes allow (the study's)."""
        inner = balanced_factors(in_features, order)
        return cls(tuple(inner), tuple(balanced_factors(out_features, order)))

    @classmethod
    def apart(cls, in_features: int, out_features: int, order: int) -> TTShape:
        """Modes of inputs alone, then, in the larger half of the cores, of outputs alone.

        A plain tensor train of a table: a row takes one slice of each core of outputs. Outputs
        are padded where their primes are too large (``padded_factors``).
        """
        inner = balanced_factors(in_features, order // 2)
        outer = padded_factors(out_features, order - order // 2)
        return cls((*inner, *[1] * len(outer)), (*[1] * len(inner), *outer))

    @property
    def rows(self) -> int:
        """Outputs with those that pad them."""
        return math.prod(self.out_modes)

    @property
    def modes(self) -> tuple[int, ...]:
        """Sizes of the merged modes."""
        return tuple(i * o for i, o in zip(self.in_modes, self.out_modes, strict=True))

    def values(self, rank: int) -> int:
        """Values of all cores under one maximal rank."""
        return train_values(self.modes, tt_ranks(self.modes, rank))


def balanced_factors(number: int, order: int) -> list[int]:
    """``order`` factors of ``number``, as equal as its primes allow, ascending.

    Prime factors, largest first, each multiplied into the currently smallest bin.
    """
    bins = [1] * order
    for prime in reversed(prime_factors(number)):
        smallest = bins.index(min(bins))
        bins[smallest] *= prime
    return sorted(bins)


def padded_factors(number: int, order: int) -> list[int]:
    """``balanced_factors`` of the next number of which none is over ``UNEVEN`` times another."""
    for padded in count(number):
        factors = balanced_factors(padded, order)
        if factors[-1] <= UNEVEN * factors[0]:
            return factors
    raise AssertionError("a power is among the numbers")


def tt_ranks(modes: Sequence[int], rank: int) -> list[int]:
    """TT ranks ``r_0 .. r_d`` under one maximal rank: at most the sides of each unfolding."""
    ranks = [1]
    for k in range(1, len(modes)):
        ranks.append(min(rank, ranks[-1] * modes[k - 1], math.prod(modes[k:])))
    return [*ranks, 1]


def reachable(modes: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """``ranks`` without those that the ranks to their left cannot fill."""
    found = [1]
    for k in range(1, len(modes)):
        found.append(min(ranks[k], found[-1] * modes[k - 1]))
    return [*found, 1]


def train_values(modes: Sequence[int], ranks: Sequence[int]) -> int:
    """Values of the cores of a train with ranks ``r_0 .. r_d``."""
    return sum(ranks[k] * mode * ranks[k + 1] for k, mode in enumerate(modes))


def prime_factors(number: int) -> list[int]:
    """Prime factors, ascending."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found
