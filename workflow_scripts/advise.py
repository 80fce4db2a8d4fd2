"""Rule advise: which method and size for every module of a model."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.advice,
    model=Path(snakemake.input.model),
    moments=Path(snakemake.input.moments),
    target=Path(snakemake.output[0]),
)
