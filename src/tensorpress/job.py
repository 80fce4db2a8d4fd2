"""What surrounds every workflow script: device, threads, log, and errors in one line."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorpress import guards
from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.records import Record
from tensorpress.secrets import one_line, redacted
from tensorpress.slots import VISIBLE, gpu_slot
from tensorpress.staging import lead_to

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
    log, inputs = Path(snakemake.log[0]), [Path(each) for each in snakemake.input]
    # threads that spin long starve each other where processes share the cores; those that never
    # spin are slow to wake
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _collect_less()
    record = Record.begin(snakemake.rule, log.stem)
    record.write()
    try:
        _warn_into(log)
        lead_to(inputs)
        guards.settle(inputs)
        gpus = snakemake.resources.get("gpu")  # 0 on sites without: the rule runs on the CPU
        with gpu_slot(count=gpus) if gpus else nullcontext() as slot:
            if slot is not None:
                os.environ[VISIBLE] = slot
            device = None if gpus is None else _device(slot, int(snakemake.threads))
            record = record.granted(slot, _gpu_name(device))
            record.write()
            yield device
        _append(log, "finished\n")
        record.finished().write()
    except BaseException as error:
        message = _message(error, log)
        if isinstance(error, DamagedFile) and (moved := guards.set_aside(error.path, inputs)):
            message += f"; moved aside, 'snakemake -- {moved}' makes it anew"
        record.finished(message).write()
        _append(log, redacted(traceback.format_exc()))
        if not isinstance(error, Exception):
            raise
        print(f"tensorpress: {snakemake.rule}: {message}", file=sys.stderr)
        sys.exit(1)


def _collect_less() -> None:
    """Look for garbage less often, and with torch not at the end: imports hardly make any.

    A quarter of the time of a job that loads a model went into it.
    """
    gc.set_threshold(10_000)
    atexit.register(_freeze_with_torch)


def _freeze_with_torch() -> None:
    # not where duckdb is and no torch: its bindings call what is not freed a leak, on many lines
    if "torch" in sys.modules:
        gc.freeze()


def _warn_into(log: Path) -> None:
    """Warnings of the package go to the log, begun anew, and to standard error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    logger = logging.getLogger("tensorpress")
    logger.handlers = [logging.FileHandler(log), logging.StreamHandler()]
    logger.propagate = False


def _append(log: Path, text: str) -> None:
    # where the disk is full, the error is still shown
    with suppress(OSError), log.open("a") as file:
        file.write(text)


def _message(error: BaseException, log: Path) -> str:
    """One line on what ended a job."""
    if isinstance(error, TensorpressError):
        return redacted(str(error))
    return f"unexpected {type(error).__name__}: {one_line(error)} (traceback in {log})"


def _device(slot: str | None, threads: int) -> torch.device:
    import torch

    torch.set_num_threads(threads)
    return torch.device("cuda" if slot is not None and torch.cuda.is_available() else "cpu")


def _gpu_name(device: torch.device | None) -> str | None:
    if device is None or device.type != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name(device)
