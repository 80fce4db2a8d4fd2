"""Rule report: one notebook, executed over the results tables, as HTML."""

from pathlib import Path

from tensorpress import paths
from tensorpress.job import job

with job(snakemake):
    from tensorpress.reporting import render

    spec = snakemake.params.report.spec
    parameters = {
        "model": spec.model,
        "task": spec.task,
        "results": str(Path(snakemake.input.results).resolve()),
        "decompositions": str(Path(snakemake.input.decompositions).resolve()),
        "jobs": str(Path(snakemake.input.jobs).resolve()),
        "queries": str(paths.queries().resolve()),
    }
    render(Path(snakemake.input.notebook), parameters, Path(snakemake.output[0]))
