"""Metrics: one job per compressed checkpoint and task."""


rule stage_evaluate:
    input:
        ancient(LIVE["evaluate"]),


rule evaluate:
    input:
        run=lambda w: ancient(plan.evaluations[w.evaluation].run.checkpoint),
        dense=lambda w: ancient(plan.evaluations[w.evaluation].dense_checkpoint),
        moments=lambda w: ancient(plan.evaluations[w.evaluation].moments),
        corpora=lambda w: ancient(plan.evaluations[w.evaluation].texts),
    output:
        paths.evaluation_rows("{evaluation}"),
    log:
        paths.LOGS / "evaluate/{evaluation}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: lambda w: workflow.cores if plan.evaluations[w.evaluation].spec.measures_time else 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt
        * footprint.evaluate(plan.evaluations[w.evaluation]).mem_mb,
        runtime=lambda w, attempt: attempt
        * footprint.evaluate(plan.evaluations[w.evaluation]).runtime,
    params:
        evaluation=lambda w: Packed.of(plan.evaluations[w.evaluation]),
        dtype=lambda w: plan.evaluations[w.evaluation].dtype,
    script:
        "../workflow_scripts/evaluate.py"
