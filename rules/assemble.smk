"""Compressed checkpoints that transformers loads."""


rule stage_assemble:
    input:
        ancient(LIVE["assemble"]),


rule assemble:
    input:
        model=lambda w: ancient(plan.runs[w.run].model.checkpoint),
        original=lambda w: ancient(plan.runs[w.run].model.lineage[0].checkpoint),
        factors=lambda w: ancient([p.factors for p in plan.runs[w.run].placements]),
        errors=lambda w: ancient([p.rows for p in plan.runs[w.run].placements]),
    output:
        checkpoint=directory(paths.assembled("{run}")),
        rows=paths.storage_rows("{run}"),
    log:
        paths.LOGS / "assemble/{run}.log",
    conda:
        "../envs/tensorpress.yaml"
    resources:
        mem_mb=lambda w, attempt: footprint.assemble(plan.runs[w.run]).mem_mb * attempt,
        runtime=lambda w, attempt: footprint.assemble(plan.runs[w.run]).runtime * attempt,
    params:
        run=lambda w: Packed.of(plan.runs[w.run]),
    script:
        "../workflow_scripts/assemble.py"
