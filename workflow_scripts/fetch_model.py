"""Rule fetch_model: train, copy or download one model and verify it."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    dtype="auto",
    model=snakemake.params.model,
    target=Path(snakemake.output[0]),
    threads=snakemake.threads,
)
