"""What surrounds every workflow script: device, threads, log, and errors in one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorpress.errors import TensorpressError
from tensorpress.slots import VISIBLE, gpu_slot

if TYPE_CHECKING:
    import torch


@contextmanager
def job(snakemake: Any) -> Iterator[torch.device | None]:
    """Run a script's body on its own device with its share of the cores.

    Rules that ask for a GPU get a device (the CPU where there is none); the others get ``None``
    and are spared the import of torch.

    A ``TensorpressError`` ends the script with that one line; any other failure with one line
    that names the log, which holds the traceback.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    # threads that spin long starve each other where processes share the cores; those that never
    # spin are slow to wake
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        wants_gpu = bool(snakemake.resources.get("gpu", 0))
        with gpu_slot() if wants_gpu else _no_gpu() as slot:
            if slot is not None:
                os.environ[VISIBLE] = slot
            yield _device(slot, int(snakemake.threads)) if wants_gpu else None
        log.write_text("finished\n")
    except BaseException as error:
        log.write_text(traceback.format_exc())
        if isinstance(error, TensorpressError):
            message = str(error)
        elif isinstance(error, Exception):
            message = f"unexpected {type(error).__name__}: {error} (traceback in {log})"
        else:
            raise
        print(f"tensorpress: {snakemake.rule}: {message}", file=sys.stderr)
        sys.exit(1)


def _device(slot: str | None, threads: int) -> torch.device:
    import torch

    torch.set_num_threads(threads)
    return torch.device("cuda" if slot is not None and torch.cuda.is_available() else "cpu")


@contextmanager
def _no_gpu() -> Iterator[None]:
    yield None
