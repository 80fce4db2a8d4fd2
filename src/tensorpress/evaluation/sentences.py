"""Sentences of a text that follow each other. Torch-free."""

from __future__ import annotations

import re
from itertools import pairwise

from tensorpress.errors import TensorpressError

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])")


def sentence_pairs(text: str, count: int, least_words: int) -> list[tuple[str, str]]:
    """Pairs of neighbours in a paragraph, evenly out of all; no sentence is in two of them.

    ``TensorpressError`` if the text has no two.
    """
    found: list[tuple[str, str]] = []
    taken: set[str] = set()
    for paragraph in _PARAGRAPH.split(text):
        for pair in pairwise(_SENTENCE.split(" ".join(paragraph.split()))):
            is_long = all(len(sentence.split()) >= least_words for sentence in pair)
            if is_long and pair[0] != pair[1] and taken.isdisjoint(pair):
                found.append(pair)
                taken.update(pair)
    if len(found) < 2:
        raise TensorpressError(
            f"the corpus has {len(found)} pairs of neighbouring sentences of {least_words} words, "
            "too few; allowed: a text with two or more, or fewer least_words"
        )
    kept = min(count, len(found))
    return [found[i * len(found) // kept] for i in range(kept)]
