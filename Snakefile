"""The pipeline: fetch, transform, calibrate, advise, decompose, assemble, recover, evaluate, aggregate, report, site.

Paths carry keys (src/tensorpress/keying/keys.py), so an artifact that exists is right; inputs are
ancient() because modification times say nothing.
"""

import gc
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

from tensorpress.config import params as tensorpress_params
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import redacted
from tensorpress.files import paths
from tensorpress.planning import footprint
from tensorpress.planning.jobs import live_jobs, live_paths, slow_imports
from tensorpress.planning.plan import Plan
from tensorpress.running import forkserver, guards, records
from tensorpress.running.request import Packed

min_version("9.0")


# --configfile FILE stands in place of params.yaml, --config overrides single values of it
if "models" not in config:

    configfile: "params.yaml"


try:
    guards.check_place(Path.cwd(), sys.executable)
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        guards.check_environments(Path(workflow.basedir), Path.cwd())
    plan = Plan(tensorpress_params.merged(config, workflow.configfiles))
    LIVE = live_paths(plan)
except TensorpressError as error:
    raise WorkflowError(redacted(str(error))) from None

gc.freeze()  # a fifth of planning went into looking for garbage among modules
RUN = records.this_run()  # jobs inherit it


wildcard_constraints:
    model=r"[^/]+-[0-9a-f]{10}",
    corpus=r"[^/]+-[0-9a-f]{10}",
    stream=r"[^/]+-[0-9a-f]{10}",
    calibration=r"[^/]+-[0-9a-f]{10}",
    options=r"[^/]+-[0-9a-f]{10}",
    advice=r"[^/]+-[0-9a-f]{10}",
    decomposition=r"[^/]+-[0-9a-f]{10}",
    run=r"[^/]+-[0-9a-f]{10}",
    recovery=r"[^/]+-[0-9a-f]{10}",
    evaluation=r"[^/]+-[0-9a-f]{10}",
    report=r"[^/]+-[0-9a-f]{10}",
    site=r"[^/]+-[0-9a-f]{10}",
    layer=r"\d{3}",


rule all:
    default_target: True
    input:
        ancient(LIVE["site"]),
        ancient(LIVE["reports"]),
        ancient(LIVE["aggregate"]),


include: "rules/fetch.smk"
include: "rules/transform.smk"
include: "rules/calibrate.smk"
include: "rules/advise.smk"
include: "rules/decompose.smk"
include: "rules/assemble.smk"
include: "rules/recover.smk"
include: "rules/evaluate.smk"
include: "rules/aggregate.smk"
include: "rules/report.smk"
include: "rules/site.smk"


onstart:
    try:
        guards.check_writable(artifact for live in LIVE.values() for artifact in live)
    except TensorpressError as error:
        raise WorkflowError(str(error)) from None
    # not for the jobs of a cluster's hosts or of other environments
    if workflow.local_exec and not workflow.deployment_settings.deployment_method:
        # a limit wakes the scheduler again for each time that it woke, and holds up the end
        workflow.scheduler.job_rate_limiter = None
        forkserver.start(
            slow_imports(plan, {job.rule.name for job in workflow.dag.needrun_jobs()})
        )


onsuccess:
    print(records.run_line(records.read_all(), RUN))
    # a job that is forced hides from Snakemake what else is missing behind it
    wanted = [file for job in workflow.dag.targetjobs for file in (*job.input, *job.output)]
    missing = [file for file in wanted if not file.is_storage and not os.path.exists(file)]
    asked = workflow.dag_settings
    if missing and not (asked.until or asked.omit_from or asked.batch):
        again = "run the same command again, without forcing jobs"
        raise WorkflowError(f"{missing[0]} is still missing (of {len(missing)} files): {again}")
    for page in filter(os.path.exists, LIVE["reports"]):  # not all, where a target was named
        print(f"report: {page}")
    for folder in filter(os.path.exists, LIVE["site"]):
        print(f"site, all of it in one folder: {folder}/index.html")


onerror:
    print(records.run_line(records.read_all(), RUN))
