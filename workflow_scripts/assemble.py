"""Rule assemble: a compressed checkpoint out of a model and its factors."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake):
    from tensorpress.assembly import LayerFactors, assemble
    from tensorpress.atomic import replacing
    from tensorpress.manifest import Provenance, write_manifest
    from tensorpress.rows import StorageRow, write_rows

    run = snakemake.params.run
    placements = [LayerFactors(p.layer, p.modules, p.factors) for p in run.placements]
    with replacing(Path(snakemake.output.checkpoint)) as target:
        storage = assemble(
            Path(snakemake.input.model),
            run.model.family,
            placements,
            run.dtype,
            target,
            run.rounding,
        )
        if run.placements:
            write_manifest(
                [
                    Provenance(
                        p.layer,
                        p.modules,
                        p.decomposition.spec.method,
                        p.decomposition.spec.model_dump(
                            mode="json", by_alias=True, exclude_none=True
                        ),
                        p.factors,
                        p.rows,
                    )
                    for p in run.placements
                ],
                run.dtype,
                target,
                run.rounding,
            )
    write_rows([storage], StorageRow, Path(snakemake.output.rows))
