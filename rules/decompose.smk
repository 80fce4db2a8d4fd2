"""Factors: one job per model, method settings, module group and layer."""


def decomposition_moments(wildcards):
    calibration = plan.decompositions[wildcards.decomposition].calibration
    return ancient(paths.calibration(calibration.id)) if calibration else []


rule stage_decompose:
    input:
        ancient(LIVE["decompose"]),


rule decompose:
    input:
        model=lambda w: ancient(paths.model(plan.decompositions[w.decomposition].model.id)),
        moments=decomposition_moments,
    output:
        factors=paths.factors("{decomposition}", "{layer}"),
        rows=paths.decomposition_rows("{decomposition}", "{layer}"),
    params:
        decomposition=lambda w: plan.decompositions[w.decomposition],
    log:
        paths.LOGS / "decompose/{decomposition}-{layer}.log",
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
    conda:
        "../envs/compress.yaml"
    script:
        "../workflow_scripts/decompose.py"
