"""Notebooks that render queries, as HTML pages."""


rule stage_reports:
    input:
        ancient(LIVE["reports"]),


rule report:
    input:
        results=ancient(paths.results_table(plan.table_id)),
        decompositions=ancient(paths.decompositions_table(plan.table_id)),
        jobs=ancient(paths.jobs_table(plan.table_id)),
        notebook=lambda w: local(
            ancient(paths.notebooks() / f"{plan.reports[w.report].spec.notebook}.ipynb")
        ),
        queries=local(ancient(sorted(paths.queries().glob("*.sql")))),
    output:
        report(paths.report("{report}"), category="Reports"),
    log:
        paths.LOGS / "report/{report}.log",
    conda:
        "../envs/tensorpress.yaml"
    params:
        spec=lambda w: Packed.of(plan.reports[w.report].spec),
    script:
        "../workflow_scripts/report.py"
