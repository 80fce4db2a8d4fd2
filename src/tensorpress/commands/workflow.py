"""The workflow from any folder: Snakemake on the project's rules, and parts to be edited."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tensorpress.errors import TensorpressError
from tensorpress.files import paths, yamlfile
from tensorpress.files.atomic import replacing

COPIED = ("params.yaml", "profiles", "studies")
"""Parts of the workflow that are taken from the working directory, so that a copy can be edited."""


def snakemake(*options: str) -> list[str]:
    """The command that runs the project's rules on the working directory."""
    snakefile = str(paths.project() / "Snakefile")
    return [sys.executable, "-m", "snakemake", "--snakefile", snakefile, *options]


def typed(params: Path) -> str:
    """What a user types here to run a study, in a checkout or beside an installed package."""
    command = "snakemake" if Path("Snakefile").is_file() else "tensorpress run"
    return command if params == paths.PARAMS else f"{command} --configfile {params}"


def run(params: Path, options: Sequence[str]) -> NoReturn:
    """Become Snakemake, with its own options, exit status and signals.

    ``TensorpressError`` where both ``params`` and a ``--configfile`` are named, and where one of
    these is missing, for which Snakemake shows its own code.
    """
    if params != paths.PARAMS:
        if any(each.startswith("--configfile") for each in options):
            raise TensorpressError(
                f"--params: {params} beside --configfile is not allowed; allowed: one of the two"
            )
        options = [f"--configfile={params}", *options]  # which takes what follows for more of them
    for file in configfiles(options):
        yamlfile.require(Path(file))
    os.execv(sys.executable, snakemake(*options))


def configfiles(options: Sequence[str]) -> list[str]:
    """The files that Snakemake would take for configs: all that follow, up to the next option."""
    named: list[str] = []
    taken = False
    for each in options:
        option, _, first = each.partition("=")
        if each.startswith("-"):
            taken = option in ("--configfile", "--configfiles")
            named += [first] * (taken and bool(first))
        elif taken:
            named.append(each)
    return named


def copy(part: str) -> Path:
    """Copy a part of the workflow into the working directory; what is there is never replaced."""
    source, target = paths.project() / part, Path(part)
    if target.exists():
        raise TensorpressError(
            f"copy: {target}, which exists, is not allowed; allowed: a folder without it"
        )
    with replacing(target) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, temporary)
    return target
