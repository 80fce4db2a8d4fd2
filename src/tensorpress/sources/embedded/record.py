"""Record which paragraphs make up the embedded corpora; a maintainer's tool, not run by users.

``python -m tensorpress.sources.embedded.record PY311 PY312 PY313`` takes the interpreters that are
to agree (paths of their ``python``), reads the standard library of each, and writes
``paragraph_hashes.txt`` anew: prose found word for word in all of them, split by module and topic,
without held-out paragraphs that share eight successive words with the training text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterable
from pathlib import Path

from tensorpress.sources.embedded.corpus import HASHES, paragraph_hash, text_sha256

HELDOUT_SHARE = 0.12
MIN_WORDS = 8
MIN_PROSE_SHARE = 0.6
GRAM = 8
PROSE_WORD = re.compile(r"""["'(]*[A-Za-z][A-Za-z'-]*["')]*[.,:;!?]?["')]*""")
READ = """
import json, sys, sysconfig
from pathlib import Path
from tensorpress.sources.embedded.corpus import library_documents
json.dump(library_documents(Path(sysconfig.get_path("stdlib"))), sys.stdout)
"""

Documents = dict[str, list[str]]


def record(pythons: Iterable[str], target: Path = HASHES) -> dict[str, Documents]:
    """Write the record of the paragraphs that ``pythons`` share; the splits' paragraphs."""
    train, heldout = split(shared_prose([_read(python) for python in pythons]))
    splits = {"train": train, "heldout": without_copies(heldout, train)}
    lines = ["# Written by python -m tensorpress.sources.embedded.record."]
    for name, documents in splits.items():
        texts = tuple("\n\n".join(paragraphs) for paragraphs in documents.values())
        lines.append(f"split {name} {text_sha256(texts)}")
        for document, paragraphs in documents.items():
            hashes = " ".join(map(paragraph_hash, paragraphs))
            lines += [f"document {document}", *textwrap.wrap(hashes, 100)]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return splits


def shared_prose(libraries: list[Documents]) -> Documents:
    """Prose paragraphs of the first library that all have; each only where it stands first."""
    paragraph_sets = [{p for found in library.values() for p in found} for library in libraries]
    unseen = {p for p in set.intersection(*paragraph_sets) if is_prose(p)}
    kept: Documents = {}
    for name, paragraphs in sorted(libraries[0].items()):
        for paragraph in paragraphs:
            if paragraph in unseen:
                unseen.remove(paragraph)
                kept.setdefault(name, []).append(paragraph)
    return kept


def is_prose(paragraph: str) -> bool:
    """At least eight words, three in five of them plain; doctests, tables, grammars are not."""
    words = paragraph.split()
    plain = sum(PROSE_WORD.fullmatch(word) is not None for word in words)
    return len(words) >= MIN_WORDS and plain >= MIN_PROSE_SHARE * len(words) and ">>>" not in words


def split(documents: Documents) -> tuple[Documents, Documents]:
    """Training and held-out documents: whole packages, about 12 % of topics and of modules."""
    heldout_units: set[str] = set()
    for topics in (True, False):
        sizes: dict[str, int] = {}
        for name, paragraphs in documents.items():
            if name.startswith("topic:") == topics:
                sizes[_unit(name)] = sizes.get(_unit(name), 0) + sum(map(len, paragraphs))
        room = HELDOUT_SHARE * sum(sizes.values())
        # the order of hashes: a draw that nobody tuned, the same on every machine
        for unit in sorted(sizes, key=lambda unit: hashlib.sha256(unit.encode()).digest()):
            if sizes[unit] <= room:
                heldout_units.add(unit)
                room -= sizes[unit]
    heldout = {name: p for name, p in documents.items() if _unit(name) in heldout_units}
    return {name: p for name, p in documents.items() if name not in heldout}, heldout


def without_copies(heldout: Documents, train: Documents) -> Documents:
    """Held-out paragraphs that share no ``GRAM`` successive words with any training paragraph."""
    seen = {gram for paragraphs in train.values() for p in paragraphs for gram in grams(p)}
    kept = {name: [p for p in found if not grams(p) & seen] for name, found in heldout.items()}
    return {name: paragraphs for name, paragraphs in kept.items() if paragraphs}


def grams(paragraph: str) -> set[tuple[str, ...]]:
    """Runs of ``GRAM`` words in lower case without punctuation; of a shorter text, all of it."""
    words = re.findall(r"[a-z0-9]+", paragraph.lower())
    return {tuple(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1))}


def _unit(name: str) -> str:
    """What is never split: a topic, or a top-level module with its C twin and its package."""
    return name if name.startswith("topic:") else name.split("/")[0].removesuffix(".py").lstrip("_")


def _read(python: str) -> Documents:
    """The documents of another interpreter's standard library, parsed by that interpreter."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [python, "-c", READ]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    documents: Documents = json.loads(done.stdout)
    return documents


def main() -> None:
    """Command line: print the size of each split."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("python", nargs="+", help="interpreters that are to agree")
    splits = record(parser.parse_args().python)
    for name, documents in splits.items():
        paragraphs = [p for found in documents.values() for p in found]
        size = sum(len(p.encode()) + 2 for p in paragraphs)
        print(f"{name}: {len(documents)} documents, {len(paragraphs)} paragraphs, {size} bytes")


if __name__ == "__main__":
    main()
