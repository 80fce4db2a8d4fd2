"""Rule recover: a compressed checkpoint with adapters trained on a text."""

from pathlib import Path

from tensorpress.job import run_stage

made = snakemake.params.recovery
run_stage(
    snakemake,
    dtype=made.dtype,
    made=made,
    source=Path(snakemake.input.run),
    storage=Path(snakemake.input.storage),
    corpus=Path(snakemake.input.corpus),
    checkpoint=Path(snakemake.output.checkpoint),
    rows=Path(snakemake.output.rows),
)
