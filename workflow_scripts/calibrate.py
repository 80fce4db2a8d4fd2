"""Rule calibrate: second moments of every module's inputs, one file a layer."""

from pathlib import Path

from tensorpress.job import run_stage

made = snakemake.params.calibration
run_stage(
    snakemake,
    dtype=made.dtype,
    made=made,
    model=Path(snakemake.input.model),
    corpus=Path(snakemake.input.corpus),
    target=Path(snakemake.output[0]),
)
