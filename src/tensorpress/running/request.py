"""What a workflow script asks for. It imports little, for every job begins with it. Torch-free."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tensorpress.running import forkserver

PERFORM = "tensorpress.running.job:perform"
"""The function that does what a request asks for."""


class Packed(bytes):
    """An object on its way through Snakemake and a script that do not look at it."""

    @classmethod
    def of(cls, content: Any) -> Packed:
        """Pack."""
        return cls(pickle.dumps(content))

    def unpacked(self) -> Any:
        """The object."""
        return pickle.loads(self)


@dataclass(frozen=True)
class Request:
    """A rule's job: what Snakemake grants it, and the arguments of ``stages.<rule>.run``.

    ``gpus``: how many it asks for; ``None`` for a rule that runs on the CPU in any case and is
    given no device, unless a profile's default resources name one. ``dtype``: in which it runs
    models, ``auto`` for what its device does fast; ``None`` where none runs. ``began``: when its
    script did, in seconds of the epoch, by the CPU time that it took so far (the start of a process
    is known to a second only).
    """

    rule: str
    log: Path
    inputs: tuple[Path, ...]
    gpus: int | None
    threads: int
    dtype: str | None = None
    began: float = field(default_factory=lambda: time.time() - time.process_time())
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def unpacked(self) -> dict[str, Any]:
        """The arguments, packed ones as what they hold."""
        found = self.arguments.items()
        return {n: value.unpacked() if isinstance(value, Packed) else value for n, value in found}


def run_stage(
    snakemake: Any, *, dtype: str | None = None, needs_torch: bool = True, **arguments: Any
) -> NoReturn:
    """End a script with the work of its rule: ``stages.<rule>.run`` with these arguments.

    A fork of the server does it, if there is one; a rule that needs no torch does not wait for it.
    """
    request = Request(
        rule=snakemake.rule,
        log=Path(snakemake.log[0]),
        inputs=tuple(Path(each) for each in snakemake.input),
        gpus=snakemake.resources.get("gpu"),  # 0 on sites without: the rule runs on the CPU
        threads=int(snakemake.threads),
        dtype=dtype,
        arguments=arguments,
    )
    if needs_torch:
        forkserver.run(PERFORM, request)
    sys.exit(forkserver.function(PERFORM)(request))
