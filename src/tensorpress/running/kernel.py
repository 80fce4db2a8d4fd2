"""The kernel of a page's notebook, as a fork of the server that has imported what pages need.

A kernel's own start and imports take longer than most pages. Torch-free.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from jupyter_client.manager import AsyncKernelManager

UNKEYED = "a page is the same in whatever process its notebook runs"

START = f"""
import signal, sys
from tensorpress.running import forkserver
signal.signal(signal.SIGINT, signal.SIG_IGN)
forkserver.die_with_parent()
forkserver.run({f"{__name__}:serve"!r}, sys.argv[1:])
"""
"""What stands in for ipykernel's launcher; an interrupt is sent before each shutdown."""


class ForkedKernelManager(AsyncKernelManager):
    """Starts kernels by ``START``."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command that starts a kernel; one of another kind than ipykernel as it is."""
        command: list[str] = super().format_kernel_cmd(extra_arguments)
        if command[1:3] != ["-m", "ipykernel_launcher"]:
            return command
        return [command[0], "-c", START, *command[3:]]


def serve(arguments: Sequence[str]) -> int:
    """Be the kernel that ipykernel's ``arguments`` describe, until it is shut down."""
    # the default of the first was read when the server imported it
    parent = int(os.environ.get("JPY_PARENT_PID") or 0)
    app: Any = IPKernelApp.instance(parent_handle=parent, log_level=logging.ERROR)
    app.initialize(list(arguments))
    app.start()
    return 0
