"""Texts of the perplexities that papers report: WikiText-2 and C4, joined as GPTQ's code does.

Torch-free. Frantar et al., "GPTQ" (ICLR 2023), whose loaders most compression papers copied.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from tensorpress.sources.hub_datasets import HubDataset

WIKITEXT2 = HubDataset(
    "Salesforce/wikitext", "wikitext-2-raw-v1", "b08601e04326c79dfdd32d625aee71d232d685c3"
)
C4 = HubDataset(
    "allenai/c4",
    revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
    data_files="en/c4-validation.00000-of-00008.json.gz",
)
C4_DOCUMENTS = 1100
C4_SPLIT = f"validation[:{C4_DOCUMENTS}]"

FileSplit = Literal["train", "heldout"]


def part_of(text: str, split: FileSplit) -> str:
    """The beginning of a text, about three quarters of it, or the rest.

    Cut once, so that the parts share no passage: between paragraphs, else between lines or words.
    """
    half, wanted = len(text) // 2, 3 * len(text) // 4
    ends = (text.rfind(mark, half, wanted) for mark in ("\n\n", "\n", " "))
    cut = next((end for end in ends if end >= 0), wanted)
    return text[:cut] if split == "train" else text[cut:].lstrip()


def wikitext2_text(rows: Iterable[str]) -> str:
    """Rows of a split joined by blank lines; rows are lines with their end, or empty."""
    return "\n\n".join(rows)


def wikitext2_rows(path: Path) -> list[str]:
    """Rows of a raw file (``wiki.test.raw``) as the dataset has them: blank lines are empty."""
    with path.open(encoding="utf-8-sig") as file:
        return [line if line.strip() else "" for line in file]


def c4_text(documents: Iterable[str]) -> str:
    """The first 1100 documents joined by a space."""
    return " ".join(islice(documents, C4_DOCUMENTS))


def c4_documents(path: Path) -> Iterator[str]:
    """Documents of a shard in JSON lines with a ``text``, gzipped if its name ends in ``.gz``."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        for line in file:
            yield json.loads(line)["text"]
