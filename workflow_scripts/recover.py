"""Rule recover: a compressed checkpoint with adapters trained on a text."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    dtype=snakemake.params.dtype,
    made=snakemake.params.recovery,
    source=Path(snakemake.input.run),
    dense=[Path(each) for each in snakemake.input.dense],
    storage=Path(snakemake.input.storage),
    corpus=Path(snakemake.input.corpus),
    checkpoint=Path(snakemake.output.checkpoint),
    rows=Path(snakemake.output.rows),
)
