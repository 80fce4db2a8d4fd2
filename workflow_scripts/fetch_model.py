"""Rule fetch_model: train, copy or download one model and verify it."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake) as device:
    from tensorpress.fetching import fetch_model

    model = snakemake.params.model
    fetch_model(model.name, model.spec, Path(snakemake.output[0]), device, snakemake.threads)
