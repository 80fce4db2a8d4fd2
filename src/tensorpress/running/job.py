"""What surrounds the work of every job: device, precision, threads, log, and errors in one line."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.errors.redaction import one_line, redacted
from tensorpress.files.storage import dtype_name
from tensorpress.running import forkserver, guards
from tensorpress.running.records import Record
from tensorpress.running.request import Request
from tensorpress.running.slots import VISIBLE, gpu_slot

if TYPE_CHECKING:
    import torch


def perform(request: Request) -> int:
    """Do a job in this process; its exit status."""
    try:
        with job(request) as granted:
            stage = import_module(f"tensorpress.stages.{request.rule}")
            # a profile's default resources may grant a device to rules that have no use for one
            taken = {*granted} & {*signature(stage.run).parameters}
            stage.run(**request.unpacked(), **{name: granted[name] for name in taken})
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@contextmanager
def job(request: Request) -> Iterator[dict[str, Any]]:
    """Run a block as a job, on its own device with its share of the cores.

    Yields what the job was granted: ``device`` for rules that ask for a GPU (the CPU where there
    is none), ``dtype`` where models run. Others are spared the import of torch.

    A ``TensorpressError`` ends the process with that one line, begun with the rule and what it
    should have made; any other failure with one line that names the log, which holds the traceback.
    """
    log, inputs = request.log, request.inputs
    for name, value in forkserver.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _collect_less()
    record = Record.begin(request.rule, log.stem)
    record.write()
    try:
        _warn_into(log)
        guards.clamp_future_times(inputs)
        with gpu_slot(count=request.gpus) if request.gpus else nullcontext() as slot:
            if slot is not None:
                os.environ[VISIBLE] = slot
            granted = _granted(request, slot)
            dtype = granted.get("dtype")
            gpu = _gpu_name(granted.get("device"))
            record = record.granted(slot, gpu, dtype and dtype_name(dtype), request.began)
            record.write()
            yield granted
        _append(log, "finished\n")
        record.finished().write()
    except BaseException as error:
        message = _message(error, log)
        if isinstance(error, DamagedFile) and (moved := guards.quarantine(error.path, inputs)):
            message += f"; moved aside, 'snakemake -- {moved}' makes it anew"
        record.finished(message).write()
        _append(log, redacted(traceback.format_exc()))
        if not isinstance(error, Exception):
            raise
        # in one write, for unbuffered streams too: jobs that fail together share no line
        sys.stderr.write(f"tensorpress: {request.rule} {log.stem}: {message}\n")
        sys.exit(1)


def _granted(request: Request, slot: str | None) -> dict[str, Any]:
    if request.gpus is None and "torch" not in sys.modules:
        return {}
    import torch

    # in a fork too, which imported torch before Snakemake set OMP_NUM_THREADS for its script
    torch.set_num_threads(request.threads)
    if request.gpus is None:
        return {}
    has_gpu = slot is not None and torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    granted: dict[str, Any] = {"device": device}
    if request.dtype is not None:
        from tensorpress.running.precision import resolved

        granted["dtype"] = resolved(request.dtype, device)
    return granted


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
    """What the package says goes to the log, begun anew; warnings to standard error too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    shown = logging.StreamHandler()
    shown.setLevel(logging.WARNING)
    logger = logging.getLogger("tensorpress")
    logger.handlers = [logging.FileHandler(log), shown]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _append(log: Path, text: str) -> None:
    # where the disk is full, the error is still shown
    with suppress(OSError), log.open("a") as file:
        file.write(text)


def _message(error: BaseException, log: Path) -> str:
    """One line on what ended a job."""
    if isinstance(error, TensorpressError):
        return redacted(str(error))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"unexpected {type(error).__name__}: {one_line(error)} (traceback in {log})"


def _gpu_name(device: torch.device | None) -> str | None:
    if device is None or device.type != "cuda":
        return None
    import torch

    return torch.cuda.get_device_name(device)
