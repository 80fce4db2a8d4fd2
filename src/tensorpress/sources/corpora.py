"""Fetch corpora into ``results/fetch``. Torch-free: most of such a job would be its import.

A byte-order mark at the beginning of a file is no text (``utf-8-sig``).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.objectives.images import written
from tensorpress.running.forkserver import function
from tensorpress.sources.contents import READERS, existing_file
from tensorpress.sources.digits import digits
from tensorpress.sources.embedded import corpus as embedded_corpus
from tensorpress.sources.hub_datasets import column
from tensorpress.sources.inputs import (
    C4Corpus,
    Corpus,
    DigitsCorpus,
    EmbeddedCorpus,
    FileCorpus,
    Wikitext2Corpus,
)
from tensorpress.sources.texts import (
    C4_SPLIT,
    c4_documents,
    c4_text,
    part_of,
    wikitext2_rows,
    wikitext2_text,
)


def fetch_corpus(name: str, spec: Corpus, target: Path) -> None:
    """Write the text of a corpus.

    ``TensorpressError`` if it is empty.
    """
    text = text_of(name, spec)
    if not text.strip():
        raise TensorpressError(f"corpora.{name}: the text is empty")
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def text_of(name: str, spec: Corpus) -> str:
    """The text of a corpus, from its file, the hub's cache or the hub."""
    text: str = function(READERS[spec.source])(name, spec)
    return text


def prose(name: str, spec: EmbeddedCorpus) -> str:
    """Of the standard library."""
    return "\n\n".join(embedded_corpus.documents(spec.split))


def images(name: str, spec: DigitsCorpus) -> str:
    """Of scikit-learn's digits, an image a line."""
    return written(digits(spec.split))


def file(name: str, spec: FileCorpus) -> str:
    """Of a file as it is, or of a part of it."""
    with _readable(name, spec.path) as path:
        text = path.read_text(encoding="utf-8-sig")
    return text if spec.split is None else part_of(text, spec.split)


def wikitext2(name: str, spec: Wikitext2Corpus) -> str:
    """Of WikiText-2, as papers join its lines."""
    if spec.path is None:
        return wikitext2_text(column(spec.dataset, spec.split, "text", f"corpora.{name}"))
    with _readable(name, spec.path) as path:
        return wikitext2_text(wikitext2_rows(path))


def c4(name: str, spec: C4Corpus) -> str:
    """Of C4, as papers join its documents."""
    if spec.path is None:
        return c4_text(column(spec.dataset, C4_SPLIT, "text", f"corpora.{name}"))
    with _readable(name, spec.path) as path:
        return c4_text(c4_documents(path))


@contextmanager
def _readable(name: str, path: str) -> Iterator[Path]:
    try:
        yield existing_file(path, f"corpora.{name}.path")
    except UnicodeDecodeError as error:
        raise TensorpressError(f"corpora.{name}.path: {path} is not UTF-8") from error
    except (ValueError, TypeError, KeyError, gzip.BadGzipFile) as error:
        raise TensorpressError(
            f'corpora.{name}.path: {path} is not allowed; allowed: JSON lines with a "text"'
        ) from error
