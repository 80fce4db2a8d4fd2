"""Rule report: one notebook, executed over the results tables, as HTML."""

from pathlib import Path

from tensorpress.job import run_stage

run_stage(
    snakemake,
    needs_torch=False,
    spec=snakemake.params.report.spec,
    notebook=Path(snakemake.input.notebook),
    tables={name: Path(snakemake.input[name]) for name in ("results", "decompositions", "jobs")},
    target=Path(snakemake.output[0]),
)
