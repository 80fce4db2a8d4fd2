"""What decides a perplexity beside the model, as one record whose hash stands on every row."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from tensorpress.checkpoints.loading import objective_of
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.keying.keys import file_fingerprint, key
from tensorpress.sources.companions import PREPROCESSOR, files_of, vocabulary


@dataclass(frozen=True)
class Protocol:
    """A perplexity measurement; two rows are comparable if theirs is the same.

    ``text_sha256`` is of the whole corpus, ``joined`` says how its documents became one text, of
    which the first ``characters`` are read (``None``: all) and cut into windows of ``window``
    tokens without overlap, the first ``max_windows`` of them (``None``: all), each beginning with
    the BOS token if ``bos``. ``dtype`` is the precision of weights and activations.
    ``tokenizer_sha256`` is of images' scaling where they are read.
    ``question``: how an objective asks for a window's tokens; ``None``: each but the first, given
    those before it.
    """

    text_sha256: str
    joined: str
    characters: int | None
    window: int
    max_windows: int | None
    bos: bool
    dtype: str
    tokenizer_sha256: str
    question: str | None = None

    @property
    def id(self) -> str:
        """Ten hex digits that stand for the record."""
        record = asdict(self)
        if self.question is None:
            del record["question"]  # as hashes of next-token losses have always been
        return key(**record)

    @property
    def words(self) -> str:
        """The record for a reader, without hashes."""
        parts = [f"windows of {self.window}, non-overlapping", self.dtype]
        if self.question:
            parts.append(self.question)
        if self.bos:
            parts.append("BOS first")
        if self.max_windows:
            parts.append(f"at most {self.max_windows} windows")
        if self.characters:
            parts.append(f"first {self.characters} characters")
        return "; ".join([self.joined, *parts] if self.joined else parts)


def text_protocol(
    job: EvaluationJob,
    role: str,
    *,
    window: int,
    dtype: str,
    max_windows: int | None = None,
    characters: int | None = None,
    bos: bool = False,
    question: str | None = None,
) -> Protocol:
    """The protocol of windows over the corpus in a role, with what reads for the job's run."""
    return Protocol(
        text_sha256=hashlib.sha256(job.text(role).encode()).hexdigest(),
        joined=job.joined.get(role, ""),
        characters=characters,
        window=window,
        max_windows=max_windows,
        bos=bos,
        dtype=dtype,
        tokenizer_sha256=reader_sha256(job.run_directory),
        question=question,
    )


def reader_sha256(directory: Path) -> str:
    """Hash of what reads corpora for the model in a folder: a tokenizer, or what scales pixels."""
    if objective_of(directory).reads == "images":
        return file_fingerprint(directory / PREPROCESSOR)
    return tokenizer_sha256(directory)


def tokenizer_sha256(directory: Path) -> str:
    """Hash of the tokenizer saved in a model folder."""
    names = vocabulary(files_of(directory), str(directory))
    return file_fingerprint(*(directory / name for name in names))
