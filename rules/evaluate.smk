"""Metrics: one job per compressed checkpoint and task."""


def evaluation_dense(wildcards):
    dense = plan.evaluations[wildcards.evaluation].dense
    return ancient(paths.run(dense.id)) if dense else []


def evaluation_corpora(wildcards):
    corpora = plan.evaluations[wildcards.evaluation].corpora
    return ancient([paths.corpus(corpus.id) for corpus in corpora.values()])


def evaluation_threads(wildcards):
    # a comparison of speeds wants the machine for itself
    return workflow.cores if plan.evaluations[wildcards.evaluation].dense else 1


rule stage_evaluate:
    input:
        ancient(LIVE["evaluate"]),


rule evaluate:
    input:
        run=lambda w: ancient(paths.run(plan.evaluations[w.evaluation].run.id)),
        dense=evaluation_dense,
        corpora=evaluation_corpora,
    output:
        paths.evaluation_rows("{evaluation}"),
    params:
        evaluation=lambda w: plan.evaluations[w.evaluation],
    log:
        paths.LOGS / "evaluate/{evaluation}.log",
    threads: evaluation_threads
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
    conda:
        "../envs/evaluate.yaml"
    script:
        "../workflow_scripts/evaluate.py"
