"""The mode shape of a TT-matrix of least error at a given size, or of least size at an error."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from tensorpress.linalg.tensor_train import tt_svd, tt_tensor
from tensorpress.linalg.tt_error import holds, least_rank, values_within, worst_error
from tensorpress.linalg.tt_shapes import TTShape, prime_factors, tt_ranks

EXACT_UP_TO = 64
"""Number of shapes up to which all are tried."""
POPULATION = 8
"""Shapes that survive a generation, in which twice as many are made."""
GENERATIONS = 6


@dataclass(frozen=True)
class Found:
    """Shape and maximal rank; ``gain``: its error over that of the balanced shape (1: none)."""

    shape: TTShape
    rank: int
    gain: float


def search_shape(stack: Tensor, balanced: TTShape, rank: int) -> Found:
    """The shape of the balanced one's order and at most its size that fits ``stack`` best.

    ``stack (S, out, in)``: one shape for all. All orderings of all factorisations are tried
    where there are few; otherwise they evolve.
    """
    size = balanced.values(rank)

    @functools.cache
    def error(shape: TTShape) -> float:
        fitting = largest_rank(shape, size)
        return _error(stack, shape, fitting) if fitting else math.inf

    few = _all_shapes(balanced)
    best = min(few, key=error) if few else _evolve(balanced, error)
    least, start = error(best), error(balanced)
    return Found(best, largest_rank(best, size), least / start if start else 1.0)


def search_smallest(
    targets: Callable[[TTShape], Tensor], balanced: TTShape, error: float
) -> TTShape:
    """The shape of the balanced one's order whose trains within ``error`` take fewest values.

    ``targets(shape)``: the float64 tensors ``(S, *modes)`` to fit, each within the relative error.
    All shapes are tried where there are few. Otherwise the one of least error among smaller trains
    evolves, again and again, until it is no longer within ``error``.
    """
    few = _all_shapes(balanced)
    if few:
        return min(few, key=lambda shape: values_within(targets(shape), error))
    best, rank = balanced, least_rank(targets(balanced), error)
    while True:
        smaller = best.values(rank) - 1

        @functools.cache
        def reached(shape: TTShape, size: int = smaller) -> float:
            fitting = largest_rank(shape, size)
            return worst_error(targets(shape), fitting) if fitting else math.inf

        found = _evolve(best, reached)
        if not holds(reached(found), error):
            return best
        best, rank = found, least_rank(targets(found), error)


def _all_shapes(start: TTShape) -> list[TTShape]:
    """Every shape of the same order and sides, the start first; none where they are many."""
    sides = (math.prod(start.in_modes), math.prod(start.out_modes))
    every = _factorisations(sides, len(start.in_modes))
    few = list(itertools.islice(every, EXACT_UP_TO + 1))
    return [start, *few] if len(few) <= EXACT_UP_TO else []


def largest_rank(shape: TTShape, size: int) -> int:
    """The largest maximal rank whose cores take at most ``size`` values; 0 if none does."""
    low, high = 0, max(tt_ranks(shape.modes, math.prod(shape.modes)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if shape.values(middle) <= size else (low, middle - 1)
    return low


def _error(stack: Tensor, shape: TTShape, rank: int) -> float:
    """Relative error of the trains: cores but one are orthonormal, so it holds all the energy."""
    left = total = 0.0
    for matrix in stack:
        norm = float(matrix.double().square().sum())
        cores = tt_svd(tt_tensor(matrix, shape), rank, overwrite=True)
        left += max(norm - _energy(cores), 0.0)
        total += norm
    return math.sqrt(left / total) if total else 0.0


def _energy(cores: list[Tensor]) -> float:
    """Squared norm of the tensor that the cores stand for."""
    state = cores[0].double().new_ones(1, 1)
    for core in cores:
        wide = core.double()
        half = (state @ wide.reshape(wide.shape[0], -1)).reshape(-1, wide.shape[-1])
        state = half.mT @ wide.reshape(-1, wide.shape[-1])
    return float(state.squeeze())


def _factorisations(sides: tuple[int, int], order: int) -> Iterator[TTShape]:
    for inner in _ordered(sides[0], order):
        for outer in _ordered(sides[1], order):
            yield TTShape(inner, outer)


def _ordered(number: int, order: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``number`` as a product of ``order`` factors, order counting."""
    if order == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _ordered(number // first, order - 1):
                yield (first, *rest)


def _evolve(start: TTShape, cost: Callable[[TTShape], float]) -> TTShape:
    """The shape of least cost that an evolutionary search finds.

    After Li and Sun ("Evolutionary topology search for tensor network decomposition", ICML 2020),
    who evolve topologies: the fittest survive; here children move a prime from one mode to another
    or swap two modes.
    """
    chance = random.Random(0)
    population = [start]
    for _ in range(GENERATIONS):
        children = [_mutated(chance.choice(population), chance) for _ in range(2 * POPULATION)]
        population = sorted({*population, *children}, key=cost)[:POPULATION]
    return population[0]


def _mutated(shape: TTShape, chance: random.Random) -> TTShape:
    inner, outer = list(shape.in_modes), list(shape.out_modes)
    for _ in range(chance.randint(1, 3)):
        modes = chance.choice((inner, outer))
        giver, taker = chance.sample(range(len(modes)), 2)
        primes = prime_factors(modes[giver])
        if not primes or chance.random() < 0.3:
            modes[giver], modes[taker] = modes[taker], modes[giver]
        else:
            prime = chance.choice(primes)
            modes[giver], modes[taker] = modes[giver] // prime, modes[taker] * prime
    return TTShape(tuple(inner), tuple(outer))
