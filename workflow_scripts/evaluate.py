"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from pathlib import Path

from tensorpress.request import run_stage

run_stage(
    snakemake,
    dtype=snakemake.params.dtype,
    made=snakemake.params.evaluation,
    checkpoint=Path(snakemake.input.run),
    target=Path(snakemake.output[0]),
)
