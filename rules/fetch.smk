"""Models and corpora; embedded models are trained here."""

MODELS = plan.fetched
TRAININGS = sum(model.spec.source == "embedded" for model in MODELS.values())
CORPORA = {corpus.id: corpus for corpus in plan.corpora.values()}


rule stage_fetch:
    input:
        ancient(LIVE["fetch"]),


rule fetch_model:
    output:
        directory(paths.model("{model}")),
    log:
        paths.LOGS / "fetch_model/{model}.log",
    conda:
        "../envs/tensorpress.yaml"
    # one thread after another would wait at every step, so trainings share the cores
    threads: max(1, workflow.cores // max(1, TRAININGS))
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: footprint.fetch(MODELS[w.model]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.fetch(MODELS[w.model]).runtime * attempt,
    params:
        model=lambda w: Packed.of(MODELS[w.model]),
    script:
        "../workflow_scripts/fetch_model.py"


rule fetch_corpus:
    output:
        paths.corpus("{corpus}"),
    log:
        paths.LOGS / "fetch_corpus/{corpus}.log",
    conda:
        "../envs/tensorpress.yaml"
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
    params:
        corpus=lambda w: Packed.of(CORPORA[w.corpus]),
    script:
        "../workflow_scripts/fetch_corpus.py"
