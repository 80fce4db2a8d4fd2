"""Rule fetch_corpus: write the text of one corpus."""

from __future__ import annotations

from pathlib import Path

from tensorpress.planning.artifacts import CorpusArtifact
from tensorpress.sources.corpora import fetch_corpus


def run(corpus: CorpusArtifact, target: Path) -> None:
    """Write the text."""
    fetch_corpus(corpus.name, corpus.spec, target)
