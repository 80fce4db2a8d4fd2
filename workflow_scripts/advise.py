"""Rule advise: which method and size for every module of a model."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake) as device:
    from tensorpress.advice import advise
    from tensorpress.atomic import replacing
    from tensorpress.oom import with_fallback

    made = snakemake.params.advice
    advice = with_fallback(
        "advise",
        lambda device, _: advise(
            Path(snakemake.input.model),
            Path(snakemake.input.moments),
            made.calibration.model.family,
            made.spec,
            made.dtype,
            device,
        ),
        device,
    )
    with replacing(Path(snakemake.output[0])) as temporary:
        temporary.write_text(advice.model_dump_json(indent=1), encoding="utf-8")
