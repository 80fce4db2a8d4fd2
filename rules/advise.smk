"""Pre-flight: the options of every module, one job per layer, and the best choice of them."""


rule stage_advise:
    input:
        ancient(LIVE["advise"]),


rule options:
    input:
        model=lambda w: ancient(plan.options[w.options].calibration.model.checkpoint),
        moments=lambda w: ancient(paths.calibration(plan.options[w.options].calibration.id)),
    output:
        paths.options("{options}", "{layer}"),
    log:
        paths.LOGS / "options/{options}-{layer}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt
        * footprint.options(plan.options[w.options], int(w.layer)).mem_mb,
        runtime=lambda w, attempt: attempt
        * footprint.options(plan.options[w.options], int(w.layer)).runtime,
    params:
        options=lambda w: Packed.of(plan.options[w.options]),
    script:
        "../workflow_scripts/options.py"


rule advise:
    input:
        model=lambda w: ancient(plan.advices[w.advice].options.calibration.model.checkpoint),
        options=lambda w: ancient(plan.advices[w.advice].option_files),
    output:
        paths.advice("{advice}"),
    log:
        paths.LOGS / "advise/{advice}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: footprint.advise(plan.advices[w.advice]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.advise(plan.advices[w.advice]).runtime * attempt,
    params:
        advice=lambda w: Packed.of(plan.advices[w.advice]),
    script:
        "../workflow_scripts/advise.py"
