"""The precision in which models run, where the params leave it to the machine."""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

from tensorpress.files.storage import dtype_name

AUTO = "auto"
SIDE, ROUNDS = 512, 12
"""Of the square product that is measured, and how often: the fastest counts. About 20 ms."""
WORTH = 2.0
"""How many times faster bfloat16 must be: the casts of mixed precision take up what is below."""

_log = logging.getLogger(__name__)


def resolved(asked: str, device: torch.device) -> torch.dtype:
    """A dtype by its name; for ``auto`` what the device multiplies fast, said in the log."""
    if asked != AUTO:
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    dtype, why = fast_dtype(device)
    _log.info("models run in %s: %s", dtype_name(dtype), why)
    return dtype


@cache
def fast_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """Bfloat16 where a device has units for it that pay, else float32; and the reason.

    What a processor reports does not tell: many that have AVX512-BF16 multiply float32 faster
    still. So on a CPU both are measured, unless it has no such units, where one product of
    bfloat16 would take as long as the measurement.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if supported else torch.float32
        return dtype, f"{torch.cuda.get_device_name(device)} has {'' if supported else 'no '}units"
    units = device.type == "cpu" and torch.backends.mkldnn.is_available()
    # the operator is there only where torch was built with it: not on macOS
    if not units or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32, f"the {device.type} has no units for bfloat16"
    ratio = _seconds(torch.float32) / _seconds(torch.bfloat16)
    dtype = torch.bfloat16 if ratio >= WORTH else torch.float32
    return dtype, f"products of bfloat16 are {ratio:.1f} times as fast as those of float32"


def _seconds(dtype: torch.dtype) -> float:
    """CPU seconds of a product: those of other processes do not count.

    Of one thread: several that wait for each other on a busy machine count their waiting.
    """
    matrix, threads = torch.ones(SIDE, SIDE, dtype=dtype), torch.get_num_threads()
    taken = []
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            start = time.process_time()
            matrix @ matrix
            taken.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return min(taken)
