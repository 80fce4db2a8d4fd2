"""The embedded corpora: prose that every CPython carries, checked by recorded hashes.

Help topics (``pydoc_data.topics``) and docstrings are read from the source of the running
Python's standard library, never by import. A *paragraph* is a run of lines between blank lines,
its white space collapsed to single spaces. ``paragraph_hashes.txt`` lists the paragraphs that are
the same in CPython 3.11, 3.12 and 3.13, by document and split;
``tensorpress.sources.embedded.record`` writes it. Torch-free.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from tensorpress.errors import TensorpressError

Split = Literal["train", "heldout"]

HASHES = Path(__file__).with_name("paragraph_hashes.txt")
MAX_MISSING_SHARE = 0.02
"""Share of the recorded paragraphs that another Python may lack."""
TOPICS = "pydoc_data/topics.py"
# tests, packages that Linux distributions ship apart, and files made on the user's machine
LEFT_OUT = frozenset(
    [
        "__pycache__",
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "msilib",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtle.py",
        "turtledemo",
    ]
)
LEFT_OUT_PREFIXES = ("_sysconfigdata", "config-")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Record:
    """What is recorded of one split: each document's paragraph hashes, SHA-256 of the text."""

    documents: Mapping[str, tuple[str, ...]]
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """Text of one split on this Python; ``missing`` of ``recorded`` paragraphs are not in it."""

    documents: tuple[str, ...]
    recorded: int
    missing: int

    @property
    def sha256(self) -> str:
        """SHA-256 of the documents joined by blank lines."""
        return text_sha256(self.documents)


def documents(split: Split) -> list[str]:
    """Text of each help topic and module of ``split``: paragraphs joined by blank lines."""
    return list(load(split).documents)


@cache
def load(split: Split) -> Corpus:
    """One split from the running Python; fails if over 2 % of the recorded paragraphs are gone."""
    library = Path(sysconfig.get_path("stdlib"))
    return select(library_documents(library), read_record()[split], str(library))


def select(library: Mapping[str, list[str]], record: Record, where: str) -> Corpus:
    """The recorded paragraphs out of all of ``library``; one that moved to another file counts.

    ``TensorpressError`` if more than ``MAX_MISSING_SHARE`` of them are missing.
    """
    known = {paragraph_hash(p): p for paragraphs in library.values() for p in paragraphs}
    recorded = [digest for digests in record.documents.values() for digest in digests]
    missing = sum(digest not in known for digest in recorded)
    if missing > MAX_MISSING_SHARE * len(recorded):
        raise TensorpressError(
            f"embedded corpus: {missing} of {len(recorded)} recorded paragraphs are missing in "
            f"{where}, at most {MAX_MISSING_SHARE:.0%} may be; use a CPython 3.11 to 3.13 with "
            "the sources of its standard library"
        )
    found = ([known[d] for d in digests if d in known] for digests in record.documents.values())
    texts = tuple("\n\n".join(paragraphs) for paragraphs in found if paragraphs)
    return Corpus(texts, len(recorded), missing)


def library_documents(library: Path) -> dict[str, list[str]]:
    """Document name -> its paragraphs: ``topic:NAME`` or the module's path in ``library``."""
    found = {}
    files = ((path.relative_to(library).as_posix(), path) for path in library.rglob("*.py"))
    for name, path in sorted(files):
        parts = name.split("/")
        if LEFT_OUT.intersection(parts) or parts[0].startswith(LEFT_OUT_PREFIXES):
            continue
        tree = ast.parse(path.read_bytes())
        texts = _topics(tree) if name == TOPICS else {name: "\n\n".join(_docstrings(tree))}
        found.update({document: _paragraphs(text) for document, text in texts.items()})
    return found


def paragraph_hash(paragraph: str) -> str:
    """First 12 hex digits (48 bits) of the paragraph's SHA-256."""
    return hashlib.sha256(paragraph.encode()).hexdigest()[:12]


def text_sha256(texts: tuple[str, ...]) -> str:
    """SHA-256 of documents joined by blank lines."""
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()


def read_record(path: Path = HASHES) -> dict[str, Record]:
    """What ``paragraph_hashes.txt`` says of each split.

    ``split NAME SHA256`` and ``document NAME`` lines open sections, other lines are hashes.
    """
    sums: dict[str, str] = {}
    hashes: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *rest = line.split()
        if word == "split":
            split, sums[rest[0]] = rest[0], rest[1]
            hashes[split] = {}
        elif word == "document":
            document = hashes[split].setdefault(rest[0], [])
        elif word != "#":
            document += [word, *rest]
    return {
        split: Record(
            {name: tuple(digests) for name, digests in hashes[split].items()}, sums[split]
        )
        for split in get_args(Split)
    }


def _topics(tree: ast.Module) -> dict[str, str]:
    """The one assignment of ``pydoc_data.topics``: topic -> help text."""
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
    topics = ast.literal_eval(assignment.value)
    return {f"topic:{name}": text for name, text in topics.items()}


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of module, classes and functions in the order of the source."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        yield ast.get_docstring(node) or ""


def _paragraphs(text: str) -> list[str]:
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [paragraph for paragraph in paragraphs if paragraph]
