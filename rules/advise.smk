"""Pre-flight: which method and size for every module, from weights and moments."""


rule stage_advise:
    input:
        ancient(LIVE["advise"]),


rule advise:
    input:
        model=lambda w: ancient(plan.advices[w.advice].calibration.model.checkpoint),
        moments=lambda w: ancient(paths.calibration(plan.advices[w.advice].calibration.id)),
    output:
        paths.advice("{advice}"),
    log:
        paths.LOGS / "advise/{advice}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: footprint.advise(plan.advices[w.advice]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.advise(plan.advices[w.advice]).runtime * attempt,
    params:
        advice=lambda w: Packed.of(plan.advices[w.advice]),
    script:
        "../workflow_scripts/advise.py"
