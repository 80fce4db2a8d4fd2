"""Rule calibrate: second moments of every module's inputs, one file a layer."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    dtype=snakemake.params.dtype,
    made=snakemake.params.calibration,
    model=Path(snakemake.input.model),
    corpus=Path(snakemake.input.corpus),
    target=Path(snakemake.output[0]),
)
