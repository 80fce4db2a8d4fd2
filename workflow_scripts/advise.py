"""Rule advise: which method and size for every module of a model."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.advice,
    model=Path(snakemake.input.model),
    options=[Path(each) for each in snakemake.input.options],
    target=Path(snakemake.output[0]),
)
