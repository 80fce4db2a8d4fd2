"""Rule decompose: factors of one module group of one layer."""

from pathlib import Path

from tensorpress import paths
from tensorpress.job import job

with job(snakemake) as device:
    from tensorpress.decomposition import completed, decompose_layer, measure
    from tensorpress.factorfile import save_factors
    from tensorpress.oom import with_fallback
    from tensorpress.rows import DecompositionRow, write_rows

    made = snakemake.params.decomposition
    layer = int(snakemake.wildcards.layer)
    moments, larger = made.moments, snakemake.input.larger
    labels = {
        "model": made.model.name,
        "method_name": made.method_name,
        "method": made.spec.method,
        "group": made.group,
    }
    shapes = made.model.shapes[layer].modules

    def run(device, _):
        """Factors and rows, from the weights on."""
        factors, seconds, weights = decompose_layer(
            Path(snakemake.input.model),
            made.model.family,
            completed(made.spec, [Path(p) for p in snakemake.input.advice], layer),
            made.group,
            layer,
            paths.moments(moments[0], layer) if moments else None,
            device,
            Path(larger[0]) if larger else None,
        )
        return factors, measure(factors, weights.matrices, shapes, labels, layer, seconds)

    factors, rows = with_fallback("decompose", run, device)
    save_factors(factors, Path(snakemake.output.factors))
    write_rows(rows, DecompositionRow, Path(snakemake.output.rows))
