"""The choice of least predicted damage within a number of bits: a multiple-choice knapsack.

One 0/1 variable an option; the options taken cover each module of each layer exactly once. Solved
as an integer programme by HiGHS (Huangfu and Hall 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from tensorpress.errors import TensorpressError
from tensorpress.methods.advised import Choice

GAP = 1e-4
"""How far from the least damage, relative, a choice may be proven to be.

Predictions are worth less, and layers that are nearly alike take hours to tell further apart.
"""
ROW_UNIT = 1e-5
"""One unit of bits in the budget's row: ten times HiGHS's tolerance, so that none is overlooked."""


def choose(found: Sequence[Choice], allowed_bits: int) -> list[Choice]:
    """The options of least predicted damage that cover each module once within the bits.

    The sum of damages is within ``GAP`` of the least there is, or within 1e-6 nats where that is
    none at all.

    Raises:
        TensorpressError: even the smallest options take more than ``allowed_bits``.
    """
    options = _undominated(found)
    bits = [option.bits for option in options]
    # without a budget shares are whole: options cover one module or all of a group
    fewest = sum(_picked(bits, _solve(options, bits, whole=False)))
    if fewest > allowed_bits:
        raise TensorpressError(
            f"saved: the smallest options take {fewest} bits, more than the "
            f"{allowed_bits} allowed; allowed: a smaller share"
        )
    damages = _scaled(options, allowed_bits)
    return _picked(options, _solve(options, damages, allowed_bits))


def _undominated(found: Sequence[Choice]) -> list[Choice]:
    """Options that none of the same modules beats in bits and damage; by layer and module."""
    order: dict[tuple[int, str], int] = {}
    for option in found:
        order.setdefault((option.layer, option.modules[0]), len(order))
    least: dict[tuple[int, tuple[str, ...]], float] = {}
    kept: list[Choice] = []
    for option in sorted(found, key=lambda c: (c.bits, c.damage)):
        covered = (option.layer, option.modules)
        if option.damage < least.get(covered, math.inf):
            least[covered] = option.damage
            kept.append(option)
    return sorted(kept, key=lambda c: order[c.layer, c.modules[0]])


def _scaled(options: Sequence[Choice], allowed_bits: int) -> np.ndarray:
    """Damages in units in which the least sum is about 1: HiGHS's tolerances are absolute."""
    damages = np.array([option.damage for option in options])
    for _ in range(4):  # each shows sums a thousand times smaller
        least = _solve(options, damages, allowed_bits, whole=False).fun
        if not 0 < least < 0.5:
            break
        damages = damages / least
    return damages


def _solve(
    options: Sequence[Choice],
    costs: Sequence[float] | np.ndarray,
    allowed_bits: int | None = None,
    whole: bool = True,
) -> Any:
    """SciPy's result of covering every module at the least cost; not ``whole``: in shares."""
    cells: dict[tuple[int, str], int] = {}
    places = [
        (cells.setdefault((option.layer, module), len(cells)), column)
        for column, option in enumerate(options)
        for module in option.modules
    ]
    rows, columns = zip(*places, strict=True)
    cover = csr_array((np.ones(len(places)), (rows, columns)), (len(cells), len(options)))
    constraints = [LinearConstraint(cover, 1, 1)]
    if allowed_bits is not None:
        unit = math.gcd(*(option.bits for option in options))
        row = np.array([[option.bits // unit for option in options]]) * ROW_UNIT
        # half a unit above the whole number of them, so that no rounding decides
        constraints.append(LinearConstraint(row, -np.inf, (allowed_bits // unit + 0.5) * ROW_UNIT))
    return milp(
        costs,
        integrality=np.full(len(options), int(whole)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": GAP},
    )


def _picked(items: Sequence[Any], result: Any) -> list[Any]:
    return [item for item, share in zip(items, result.x, strict=True) if share > 0.5]
