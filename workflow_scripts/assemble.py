"""Rule assemble: a compressed checkpoint out of a model and its factors."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.run,
    model=Path(snakemake.input.model),
    original=Path(snakemake.input.original),
    factors=[Path(each) for each in snakemake.input.factors],
    errors=[Path(each) for each in snakemake.input.errors],
    checkpoint=Path(snakemake.output.checkpoint),
    rows=Path(snakemake.output.rows),
)
