"""Training after compression: adapters beside the factors, or the factors themselves."""


rule stage_recover:
    input:
        ancient(LIVE["recover"]),


rule recover:
    input:
        run=lambda w: ancient(plan.recoveries[w.recovery].assembled.checkpoint),
        dense=lambda w: ancient(plan.recoveries[w.recovery].dense_checkpoint),
        storage=lambda w: ancient(plan.recoveries[w.recovery].assembled.storage),
        corpus=lambda w: ancient(paths.corpus(plan.recoveries[w.recovery].corpus.id)),
    output:
        checkpoint=directory(paths.recovery("{recovery}")),
        rows=paths.recovery_rows("{recovery}"),
    log:
        paths.LOGS / "recover/{recovery}.log",
    conda:
        "../envs/tensorpress.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: footprint.recover(plan.recoveries[w.recovery]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.recover(plan.recoveries[w.recovery]).runtime * attempt,
    params:
        recovery=lambda w: Packed.of(plan.recoveries[w.recovery]),
        dtype=lambda w: plan.recoveries[w.recovery].dtype,
    script:
        "../workflow_scripts/recover.py"
