"""Standard errors of means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of values taken for independent; a single one says nothing of its spread."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
