"""Rule stream: second moments of what a model's norms hand on, for transforms that go by them."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    dtype=snakemake.params.dtype,
    made=snakemake.params.stream,
    model=Path(snakemake.input.model),
    corpus=Path(snakemake.input.corpus),
    target=Path(snakemake.output[0]),
)
