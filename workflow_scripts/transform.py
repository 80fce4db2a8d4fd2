"""Rule transform: a model made of a model, with an architecture of its own."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.made,
    model=Path(snakemake.input.model),
    moments=[Path(file) for file in snakemake.input.moments],
    target=Path(snakemake.output[0]),
)
