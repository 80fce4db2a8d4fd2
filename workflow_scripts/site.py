"""Rule site: all pages of a study, and one for every run, as one folder."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    site=snakemake.params.site,
    pages=[Path(each) for each in snakemake.input.reports],
    queries=[Path(each) for each in snakemake.input.queries],
    tables={name: Path(snakemake.input[name]) for name in ("results", "decompositions")},
    checkpoints=snakemake.params.checkpoints,
    target=Path(snakemake.output[0]),
)
