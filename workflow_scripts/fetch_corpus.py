"""Rule fetch_corpus: write the text of one corpus."""

from pathlib import Path

from tensorpress.running.request import run_stage

run_stage(
    snakemake,
    needs_torch=False,
    corpus=snakemake.params.corpus,
    target=Path(snakemake.output[0]),
)
