"""Rule options: what may be chosen for the modules of one layer."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    made=snakemake.params.options,
    layer=int(snakemake.wildcards.layer),
    model=Path(snakemake.input.model),
    moments=Path(snakemake.input.moments),
    target=Path(snakemake.output[0]),
)
