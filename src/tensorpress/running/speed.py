"""How fast this machine multiplies what a model's layers multiply: a short measurement."""

from __future__ import annotations

import os
import time

import torch

from tensorpress.running.oom import CPU
from tensorpress.running.precision import resolved

UNKEYED = "what a machine can do is part of no key"

ROWS = 2048
"""Tokens of the product that is measured, as many as a batch of windows has."""
MACS = 2 * 10**9
"""Multiply-accumulates of one measurement at most: 0.1 s of a slow core."""
ROUNDS = 5
"""The fastest counts."""


def device() -> torch.device:
    """The device that jobs would run models on."""
    return torch.device("cuda") if torch.cuda.is_available() else CPU


def workers(where: torch.device) -> int:
    """Jobs that run models at a time: one a GPU, or one a core that this process may use."""
    if where.type == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def macs_per_second(inner: int, out: int, compute: str, where: torch.device) -> float:
    """Multiply-accumulates a second of one job: ``(tokens, inner)`` by ``(inner, out)``.

    ``compute``: the precision in which models run, ``auto`` too. On a CPU one thread is measured,
    in its own time: what else runs does not count.
    """
    dtype = resolved(compute, where)
    rows = max(1, min(ROWS, MACS // (inner * out)))
    left = torch.ones(rows, inner, dtype=dtype, device=where)
    right = torch.ones(inner, out, dtype=dtype, device=where)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = min(_seconds(left, right) for _ in range(ROUNDS))
    finally:
        torch.set_num_threads(threads)
    return rows * inner * out / seconds


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    clock = time.process_time
    if left.is_cuda:
        clock = time.perf_counter
        torch.cuda.synchronize()
    start = clock()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize()
    return max(clock() - start, 1e-7)
