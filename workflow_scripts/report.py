"""Rule report: one notebook, executed over the results tables, as HTML."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    spec=snakemake.params.spec,
    notebook=Path(snakemake.input.notebook),
    queries=[Path(each) for each in snakemake.input.queries],
    tables={name: Path(snakemake.input[name]) for name in ("results", "decompositions", "jobs")},
    target=Path(snakemake.output[0]),
)
