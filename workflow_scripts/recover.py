"""Rule recover: a compressed checkpoint with adapters trained on a text."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake) as device:
    import torch

    from tensorpress.atomic import replacing
    from tensorpress.evaluation.windows import token_windows
    from tensorpress.loading import load_model, load_tokenizer
    from tensorpress.oom import with_fallback
    from tensorpress.recovered import write_recovered
    from tensorpress.recovery import recover
    from tensorpress.rows import StorageRow, read_rows, write_rows

    made = snakemake.params.recovery
    source, family = Path(snakemake.input.run), made.model.family
    text = Path(snakemake.input.corpus).read_text(encoding="utf-8")
    windows = token_windows(load_tokenizer(source), text, made.spec.window)

    def run(device, batch):
        """Adapters of a model of its own: training uses it up."""
        model = load_model(source, device, getattr(torch, made.dtype), spill=False)
        return recover(model, family, windows, made.spec, made.seed, model.device, batch)

    adapters = with_fallback("recover", run, device, made.spec.batch)
    (compressed,) = read_rows([Path(snakemake.input.storage)], StorageRow)
    dtype = made.assembled.dtype
    with replacing(Path(snakemake.output.checkpoint)) as target:
        row = write_recovered(source, family, adapters, made.spec, dtype, compressed, target)
    write_rows([row], StorageRow, Path(snakemake.output.rows))
