"""One table of all metrics, one of all decompositions."""


rule stage_aggregate:
    input:
        ancient(LIVE["aggregate"]),


rule aggregate:
    input:
        evaluations=ancient(LIVE["evaluate"]),
        storage=ancient([each.run.storage for each in plan.recipe_runs]),
        decompositions=ancient([p.rows for p in plan.used_decompositions]),
    output:
        results=paths.results_table(plan.table_id),
        decompositions=paths.decompositions_table(plan.table_id),
    log:
        paths.LOGS / f"aggregate/{plan.table_id}.log",
    conda:
        "../envs/report.yaml"
    params:
        recipe_runs=plan.recipe_runs,
    script:
        "../workflow_scripts/aggregate.py"
