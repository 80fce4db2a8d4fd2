"""One table of all metrics, one of all decompositions, one of the jobs behind them."""


rule stage_aggregate:
    input:
        ancient(LIVE["aggregate"]),


rule aggregate:
    input:
        evaluations=ancient([paths.evaluation_rows(each) for each in plan.evaluations]),
        storage=ancient([each.storage for each in plan.checkpoints.values()]),
        advices=ancient([paths.advice(name) for name in plan.mixtures]),
        decompositions=ancient([p.rows for p in plan.used_decompositions]),
    output:
        results=paths.results_table(plan.table_id),
        decompositions=paths.decompositions_table(plan.table_id),
        jobs=paths.jobs_table(plan.table_id),
    log:
        paths.LOGS / f"aggregate/{plan.table_id}.log",
    conda:
        "../envs/tensorpress.yaml"
    params:
        advices=lambda w: list(plan.mixtures),
        recipe_runs=lambda w: Packed.of(plan.recipe_runs),
        jobs=lambda w: Packed.of(
            [j for j in live_jobs(plan) if j.stage not in ("aggregate", "reports", "site")]
        ),
    script:
        "../workflow_scripts/aggregate.py"
