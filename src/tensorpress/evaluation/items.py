"""Test items made from held-out text: continuations among distractors, and last words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tensorpress.errors import TensorpressError

MIN_WORD_LETTERS = 4
"""Letters of a word from which on it is asked for."""
CHOICES = 4


@dataclass(frozen=True)
class ClozeItem:
    """A context and four continuations of equal word count; ``label`` is the true one."""

    context: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class LastWordItem:
    """A passage without its last word; the word also stands earlier in the passage."""

    context: str
    word: str


def cloze_items(
    text: str, count: int, context_words: int, answer_words: int, seed: int
) -> list[ClozeItem]:
    """Up to ``count`` items; the three distractors are passages of other paragraphs.

    ``TensorpressError`` if the corpus has too few paragraphs of that length.
    """
    length = context_words + answer_words
    paragraphs = _paragraphs(text, length)
    if len(paragraphs) < CHOICES:
        raise TensorpressError(
            f"cloze: the corpus has {len(paragraphs)} paragraphs of {length} words, "
            f"at least {CHOICES} are needed"
        )
    draw = random.Random(seed)
    items = []
    chosen = draw.sample(range(len(paragraphs)), min(count, len(paragraphs)))
    for place in chosen:
        others = draw.sample([i for i in range(len(paragraphs)) if i != place], CHOICES - 1)
        label = draw.randrange(CHOICES)
        order = [*others[:label], place, *others[label:]]
        answers = tuple(" ".join(paragraphs[i][context_words:length]) for i in order)
        items.append(ClozeItem(" ".join(paragraphs[place][:context_words]), answers, label))
    return items


def last_word_items(text: str, count: int, context_words: int, seed: int) -> list[LastWordItem]:
    """Up to ``count`` passages that end where a longer word of theirs stands again.

    ``TensorpressError`` if the corpus has no such passage.
    """
    items = []
    for words in _paragraphs(text, context_words // 2 + 1):
        ends = range(min(len(words) - 1, context_words), context_words // 2 - 1, -1)
        end = next((i for i in ends if _repeats(words, i)), None)
        if end is not None:
            items.append(LastWordItem(" ".join(words[:end]), words[end]))
    if not items:
        raise TensorpressError(
            f"last_word: no paragraph of the corpus has {context_words // 2} words "
            "and then one of them again"
        )
    return random.Random(seed).sample(items, min(count, len(items)))


def _paragraphs(text: str, words: int) -> list[list[str]]:
    split = (paragraph.split() for paragraph in text.split("\n\n"))
    return [paragraph for paragraph in split if len(paragraph) >= words]


def _repeats(words: list[str], end: int) -> bool:
    word = words[end]
    return len(word) >= MIN_WORD_LETTERS and word.isalpha() and word in words[:end]
