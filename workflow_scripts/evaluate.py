"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from pathlib import Path

from tensorpress.job import run_stage

made = snakemake.params.evaluation
run_stage(
    snakemake,
    dtype=made.dtype,
    made=made,
    checkpoint=Path(snakemake.input.run),
    target=Path(snakemake.output[0]),
)
