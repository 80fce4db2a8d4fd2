"""How much memory this process had at most. Torch-free."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

UNKEYED = "memory used is part of no key"


def peak_resident_bytes() -> int:
    """The largest resident set of this process since it began."""
    # not getrusage: under Linux its peak survives exec, so a child would start at its parent's
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    # macOS counts bytes, the others KiB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
