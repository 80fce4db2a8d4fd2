"""All pages of a study, and one for every run, as one folder that can be sent or served."""


rule stage_site:
    input:
        ancient(LIVE["site"]),


rule site:
    input:
        results=ancient(paths.results_table(plan.table_id)),
        decompositions=ancient(paths.decompositions_table(plan.table_id)),
        reports=ancient([paths.report(name) for name in plan.reports]),
        queries=local(ancient(sorted(paths.queries().glob("*.sql")))),
    output:
        directory(paths.site("{site}")),
    log:
        paths.LOGS / "site/{site}.log",
    conda:
        "../envs/tensorpress.yaml"
    params:
        site=lambda w: Packed.of(plan.site),
        # not inputs: --all-temp may have removed them, and none is made anew for a page
        checkpoints=lambda w: Packed.of(
            {
                each.checkpoint.relative_to(paths.RESULTS).as_posix(): each.assembled.checkpoint
                for each in plan.checkpoints.values()
            }
        ),
    script:
        "../workflow_scripts/site.py"
