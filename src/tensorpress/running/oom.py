"""Work that does not fit into a GPU's memory is done again, smaller, and at last on the CPU.

Every attempt begins anew, so whatever ``run`` adds up must be its own: nothing counts twice.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

UNKEYED = "what is done with less memory comes to the same, beyond rounding"

CPU = torch.device("cpu")
SIGNS = ("ALLOC_FAILED", "can't allocate memory")
"""What the errors of CUDA's libraries and of the CPU's allocator say, which have no type."""

ARRAYS = 16
"""Float64 arrays as large as a batch that its eigenvectors and products may need at a time."""

Result = TypeVar("Result")
Say = Callable[[str], None]
warn: Say = logging.getLogger(__name__).warning
"""Into the log of the job and to its standard error."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may avoid an error."""
    told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return told or isinstance(error, torch.OutOfMemoryError)


def with_smaller_batches(
    what: str,
    run: Callable[[int], Result],
    batch: int,
    device: torch.device,
    say: Say = warn,
) -> Result:
    """``run(batch)``, begun again with half the batch while memory runs out, down to one."""
    while True:
        try:
            return run(batch)
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
        # out of the handler: the error holds on to what filled the memory
        _release()
        say(f"{what}: out of memory on {device} with a batch of {batch}; begins anew with less")
        batch //= 2


def with_fallback(
    what: str,
    run: Callable[[torch.device, int], Result],
    device: torch.device,
    batch: int = 1,
    place: Callable[[torch.device], object] = lambda device: None,
    say: Say = warn,
) -> Result:
    """``run(device, batch)``, then with half the batch down to one, then on the CPU.

    ``place`` first brings there what ``run`` needs; if that does not fit no smaller batch helps.
    ``say`` is given a line for each retreat; an error of another kind is passed on.
    """
    try:
        place(device)
        return with_smaller_batches(what, lambda size: run(device, size), batch, device, say)
    except RuntimeError as error:
        if device == CPU or not is_out_of_memory(error):
            raise
    _release()
    say(f"{what}: out of memory on {device}; begins anew on the CPU with a batch of {batch}")
    place(CPU)
    return with_smaller_batches(what, lambda size: run(CPU, size), batch, CPU, say)


def values_at_once(device: torch.device, least: int) -> int:
    """Values of a batch of matrices: ``least``, on a GPU more while its free memory allows."""
    if device.type != "cuda":
        return least
    return max(least, torch.cuda.mem_get_info(device)[0] // (8 * ARRAYS))


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
