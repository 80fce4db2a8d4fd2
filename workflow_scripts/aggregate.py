"""Rule aggregate: the results tables out of the listed artifacts."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    needs_torch=False,
    recipe_runs=snakemake.params.recipe_runs,
    jobs=snakemake.params.jobs,
    advices=dict(zip(snakemake.params.advices, map(Path, snakemake.input.advices), strict=True)),
    evaluations=[Path(each) for each in snakemake.input.evaluations],
    storage=[Path(each) for each in snakemake.input.storage],
    decompositions=[Path(each) for each in snakemake.input.decompositions],
    results_table=Path(snakemake.output.results),
    decompositions_table=Path(snakemake.output.decompositions),
    jobs_table=Path(snakemake.output.jobs),
)
