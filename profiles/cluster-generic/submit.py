#!/usr/bin/env python
"""Submit Snakemake's job script and print the scheduler's id of it. A site edits ``command``."""

import subprocess
import sys
from pathlib import Path

from snakemake.utils import read_job_properties

LOGS = Path("results/logs/cluster")


def command(job: dict) -> list[str]:
    """What submits a job of these properties: threads, and resources as the rule declares them."""
    resources = job["resources"]
    gpus = resources.get("gpu", 0)
    return [
        "sbatch",
        "--parsable",
        "--no-requeue",
        f"--job-name=tensorpress-{job.get('rule', job.get('groupid'))}",
        f"--partition={'gpu' if gpus else 'cpu'}",
        f"--cpus-per-task={job['threads']}",
        f"--mem={resources['mem_mb']}",
        f"--time={resources['runtime']}",
        f"--output={LOGS}/%j.log",
        *([f"--gpus={gpus}"] if gpus else []),
    ]


if __name__ == "__main__":
    script = sys.argv[1]
    LOGS.mkdir(parents=True, exist_ok=True)
    sys.exit(subprocess.run([*command(read_job_properties(script)), script]).returncode)
