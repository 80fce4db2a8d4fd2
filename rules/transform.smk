"""Models made of models, before anything is measured or decomposed."""


rule stage_transform:
    input:
        ancient(LIVE["transform"]),


rule transform:
    input:
        model=lambda w: ancient(plan.transformed[w.model].source.checkpoint),
    output:
        directory(paths.transformed("{model}")),
    log:
        paths.LOGS / "transform/{model}.log",
    conda:
        "../envs/tensorpress.yaml"
    resources:
        mem_mb=lambda w, attempt: footprint.transform(plan.transformed[w.model]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.transform(plan.transformed[w.model]).runtime * attempt,
    params:
        made=lambda w: Packed.of(plan.transformed[w.model]),
    script:
        "../workflow_scripts/transform.py"
