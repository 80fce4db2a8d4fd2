"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    dtype=snakemake.params.dtype,
    made=snakemake.params.evaluation,
    checkpoint=Path(snakemake.input.run),
    dense=[Path(each) for each in snakemake.input.dense],
    moments=[Path(each) for each in snakemake.input.moments],
    corpora=[Path(each) for each in snakemake.input.corpora],
    target=Path(snakemake.output[0]),
)
