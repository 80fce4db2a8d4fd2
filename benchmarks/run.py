"""Where the time of a whole study goes: starting jobs, loading models, work; rule by rule.

    python benchmarks/run.py                   # params.yaml, from nothing, in a fresh clone
    python benchmarks/run.py --params studies/all-methods.yaml
    python benchmarks/run.py --of FOLDER       # what was run there: its last driver's jobs

Start is from the start of a job's script to its work: Python, imports, the wait for a device. Load
is the reading of models and tokenizers. CPU seconds are of the job alone, without its start.
Processors differ, so the output begins with what this one can do. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tensorpress.running import records
from tensorpress.running.precision import fast_dtype
from tensorpress.running.records import Record

UNITS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "bf16")


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", type=Path, help="folder of a finished run; default: run anew")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--cores", default="all")
    arguments = parser.parse_args()
    print(processor())
    if arguments.of:
        show(arguments.of)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "project", arguments.params, arguments.cores)
        show(Path(folder) / "project")


def processor() -> str:
    """Its name, what it multiplies fast, and in which precision models would run."""
    can = torch.cpu.get_capabilities()
    units = [unit for unit in UNITS if can.get(unit)]
    dtype, why = fast_dtype(torch.device("cpu"))
    name = can.get("cpu_name", can.get("architecture", "unknown"))
    return f"{os.cpu_count()} cores, {name} ({', '.join(units)}); {dtype}: {why}"


def run(folder: Path, params: str, cores: str) -> None:
    """A study from nothing, in a clone of this checkout as it is committed."""
    checkout = Path(__file__).resolve().parents[1]
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(folder)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    environment.pop(records.RUN, None)
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--configfile", params]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--quiet", "all"], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    wall = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"the run failed with status {done.returncode}")
    print(f"{wall:.0f} s; Snakemake and scripts {used.ru_utime + used.ru_stime:.0f} CPU s")


def show(folder: Path) -> None:
    """The table of the jobs of a folder's last driver."""
    os.chdir(folder)
    known = [record for record in records.read_all() if record.ended]
    last = max(known, key=lambda record: record.started).driver
    jobs = [record for record in known if record.driver == last]
    by_rule: dict[str, list[Record]] = defaultdict(list)
    for job in jobs:
        by_rule[job.rule].append(job)
    table = Table("rule", "jobs", "start s", "load s", "work s", "CPU s", "peak MB")
    for rule, of_rule in sorted(by_rule.items(), key=lambda pair: -_work(pair[1])):
        table.add_row(rule, *_cells(of_rule))
    table.add_row("all", *_cells(jobs))
    Console(width=100).print(table)
    print(records.run_line(jobs, last))


def _cells(jobs: Sequence[Record]) -> list[str]:
    start = sum(job.start_seconds or 0 for job in jobs)
    load = sum(job.load_seconds or 0 for job in jobs)
    cpu, peak = sum(job.cpu_seconds or 0 for job in jobs), max(job.peak_rss_mb or 0 for job in jobs)
    seconds = [start, load, _work(jobs), cpu]
    return [str(len(jobs)), *(f"{each:,.1f}" for each in seconds), f"{peak:,.0f}"]


def _work(jobs: Sequence[Record]) -> float:
    return sum((job.wall_seconds or 0) - (job.load_seconds or 0) for job in jobs)


if __name__ == "__main__":
    main()
