"""Models made of models, before anything is measured or decomposed."""


rule stage_transform:
    input:
        ancient(LIVE["transform"]),


rule stream:
    input:
        model=lambda w: ancient(plan.streams[w.stream].model.checkpoint),
        corpus=lambda w: ancient(paths.corpus(plan.streams[w.stream].corpus.id)),
    output:
        paths.stream("{stream}"),
    log:
        paths.LOGS / "stream/{stream}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 2
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: footprint.stream(plan.streams[w.stream]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.stream(plan.streams[w.stream]).runtime * attempt,
    params:
        stream=lambda w: Packed.of(plan.streams[w.stream]),
        dtype=lambda w: plan.streams[w.stream].dtype,
    script:
        "../workflow_scripts/stream.py"


rule transform:
    input:
        model=lambda w: ancient(plan.transformed[w.model].source.checkpoint),
        moments=lambda w: ancient(plan.transformed[w.model].moments),
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
