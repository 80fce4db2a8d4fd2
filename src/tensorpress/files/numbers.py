"""Numbers for reading, the same on pages, in figures, in tables and in logs. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

LARGE = 1e5
"""From here on numbers are printed in powers of ten: a perplexity so high has no more to say."""


def number(value: float, digits: int = 3) -> str:
    """Decimals only below a thousand, powers of ten from ``LARGE`` on, never ``-0.000``."""
    rounded = round(value, digits) + 0.0
    if abs(rounded) >= LARGE:
        return _power(rounded)
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.{digits}f}"


def significant(value: float, digits: int = 4) -> str:
    """So many significant digits of any size, whole below ``LARGE``, then powers of ten."""
    if abs(value) >= LARGE - 0.5:  # what would be rounded up to it
        return _power(value)
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _power(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}·10^{int(exponent)}"


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers with ranges: ``0, 1, 2, 5`` as ``0-2, 5``."""
    runs = [
        [number for _, number in group]
        for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
