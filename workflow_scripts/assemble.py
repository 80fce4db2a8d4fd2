"""Rule assemble: a compressed checkpoint out of a model and its factors."""

from pathlib import Path

from tensorpress.job import run_stage

run_stage(
    snakemake,
    made=snakemake.params.run,
    model=Path(snakemake.input.model),
    checkpoint=Path(snakemake.output.checkpoint),
    rows=Path(snakemake.output.rows),
)
