"""Metrics: one job per compressed checkpoint and task."""


rule stage_evaluate:
    input:
        ancient(LIVE["evaluate"]),


def evaluating(wildcards):
    return footprint.evaluate(plan.evaluations[wildcards.evaluation])


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
    benchmark:
        paths.benchmark("evaluate", "{evaluation}")
    conda:
        "../envs/evaluate.yaml"
    threads: lambda w: workflow.cores if plan.evaluations[w.evaluation].spec.measures_time else 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: evaluating(w).mem_mb * attempt,
        runtime=lambda w, attempt: evaluating(w).runtime * attempt,
    params:
        evaluation=lambda w: plan.evaluations[w.evaluation],
    script:
        "../workflow_scripts/evaluate.py"
