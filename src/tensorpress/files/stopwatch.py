"""How long this process spent on what a job's record tells apart. Torch-free."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

UNKEYED = "times are part of no key"

LOAD = "load"
"""Reading models and tokenizers."""

_seconds: dict[str, float] = defaultdict(float)


@contextmanager
def spent_on(what: str) -> Iterator[None]:
    """Count the seconds of a block."""
    began = time.monotonic()
    try:
        yield
    finally:
        _seconds[what] += time.monotonic() - began


def seconds(what: str) -> float:
    """Seconds of all blocks so far."""
    return _seconds[what]
