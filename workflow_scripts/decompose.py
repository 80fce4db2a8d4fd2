"""Rule decompose: factors of one module group of one layer."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.decomposition,
    layer=int(snakemake.wildcards.layer),
    model=Path(snakemake.input.model),
    moments=[Path(each) for each in snakemake.input.moments],
    advice=[Path(each) for each in snakemake.input.advice],
    larger=[Path(each) for each in snakemake.input.larger],
    factors=Path(snakemake.output.factors),
    rows=Path(snakemake.output.rows),
)
