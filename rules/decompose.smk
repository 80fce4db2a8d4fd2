"""Factors: one job per model, method settings, module group and layer."""


rule stage_decompose:
    input:
        ancient(LIVE["decompose"]),


rule decompose:
    input:
        model=lambda w: ancient(plan.decompositions[w.decomposition].model.checkpoint),
        moments=lambda w: ancient(plan.decompositions[w.decomposition].moments),
        advice=lambda w: ancient(plan.decompositions[w.decomposition].advice),
        larger=lambda w: ancient(plan.larger(w.decomposition, int(w.layer))),
    output:
        factors=paths.factors("{decomposition}", "{layer}"),
        rows=paths.decomposition_rows("{decomposition}", "{layer}"),
    log:
        paths.LOGS / "decompose/{decomposition}-{layer}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt
        * footprint.decompose(plan.decompositions[w.decomposition], int(w.layer)).mem_mb,
        runtime=lambda w, attempt: attempt
        * footprint.decompose(plan.decompositions[w.decomposition], int(w.layer)).runtime,
    params:
        decomposition=lambda w: Packed.of(plan.decompositions[w.decomposition]),
    script:
        "../workflow_scripts/decompose.py"
