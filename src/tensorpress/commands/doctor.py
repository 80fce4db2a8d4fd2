"""What this machine has, what a study will take of it, and what is missing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib import metadata

import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel

from tensorpress.config.params import Params
from tensorpress.files import paths
from tensorpress.files.storage import dtype_name
from tensorpress.planning.foresight import disk, peaks
from tensorpress.planning.plan import Plan
from tensorpress.running import speed
from tensorpress.running.precision import fast_dtype

COLUMNS = ("what", "found", "needed", "verdict")
PACKAGE = "tensorpress"
PROGRAMS = {"git": "dvc repro, and code of other revisions", "sbatch": "profiles/slurm"}
"""Programs that are called, and for what."""
GIGABYTE = 1e9


class Finding(BaseModel):
    """One thing of the machine: what there is, what is needed, and whether that will do.

    ``fits`` is empty where nothing is asked of it, and where it is of use but not needed.
    """

    what: str
    found: str
    needed: str = ""
    fits: bool | None = None


def doctor(study: Params) -> list[Finding]:
    """Versions, programs, processor, GPUs, memory and disk, beside what ``study`` takes of them.

    ``TensorpressError`` for params that cannot be planned.
    """
    plan = Plan(study)
    return [*_packages(), *_programs(), *_devices(), *_room(plan)]


def rows(findings: list[Finding]) -> list[tuple[str, ...]]:
    """The findings as lines of a table."""
    verdicts = {None: "", True: "fine", False: "NOT ENOUGH"}
    return [(each.what, each.found, each.needed, verdicts[each.fits]) for each in findings]


def _packages() -> Iterator[Finding]:
    """Python, and every package that is not there in a version that this one works with."""
    python, own = platform.python_version(), metadata.metadata(PACKAGE)
    wanted = own["Requires-Python"]
    fits = SpecifierSet(wanted).contains(python, prereleases=True)
    yield Finding(what="python", found=python, needed=wanted, fits=fits)
    needed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    wrong = [each for each in needed if not _is_there(each)]
    for each in wrong:
        found = _version(each.name) or "none"
        yield Finding(what=each.name, found=found, needed=str(each.specifier), fits=False)
    right = len(needed) - len(wrong)
    yield Finding(what="packages", found=f"{right} of {len(needed)}", fits=not wrong or None)


def _is_there(needed: Requirement) -> bool:
    version = _version(needed.name)
    return bool(version) and needed.specifier.contains(version, prereleases=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _programs() -> Iterator[Finding]:
    for program, use in PROGRAMS.items():
        found = shutil.which(program) or "none"
        yield Finding(what=program, found=found, needed=f"for {use}")


def _devices() -> Iterator[Finding]:
    """The processor with what models would run in there, and every GPU."""
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(what="processor", found=f"{speed.workers(speed.CPU)} cores, {capability}")
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        size = f"{about.total_memory / GIGABYTE:.1f} GB"
        yield Finding(what=f"GPU {number}", found=f"{about.name}, {size}")
    dtype, why = fast_dtype(speed.device())
    yield Finding(what="compute.dtype: auto", found=f"{dtype_name(dtype)}: {why}")


def _room(plan: Plan) -> Iterator[Finding]:
    """Memory of the largest job, and the disk that all of them fill."""
    memory, free = psutil.virtual_memory().total, shutil.disk_usage(".").free
    most, filled = max(peaks(plan).values(), default=0), sum(disk(plan).values())
    yield Finding(
        what="memory", found=f"{memory / GIGABYTE:.1f} GB",
        needed=f"{most / GIGABYTE:.1f} GB by the largest job", fits=most <= memory,
    )  # fmt: skip
    yield Finding(
        what="disk", found=f"{free / GIGABYTE:.1f} GB free",
        needed=f"{filled / GIGABYTE:.1f} GB in {paths.RESULTS}/, much less with --all-temp",
        fits=filled <= free,
    )  # fmt: skip
