"""Rule fetch_corpus: write the text of one corpus."""

from pathlib import Path

from tensorpress.job import job

with job(snakemake):
    from tensorpress.corpora import fetch_corpus

    corpus = snakemake.params.corpus
    fetch_corpus(corpus.name, corpus.spec, Path(snakemake.output[0]))
