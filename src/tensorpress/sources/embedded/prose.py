"""What language models learn from: windows of the standard library's prose, and what they ask."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tensorpress.sources.embedded.corpus import documents
from tensorpress.sources.embedded.lessons import Lessons
from tensorpress.sources.embedded.specs import VOCABULARY, EmbeddedSpec
from tensorpress.sources.embedded.tokenizer import add_edges_and_mask, train_tokenizer

MASKED = 0.15
"""Share of a window's tokens (Devlin et al. 2019); all are masked, none is replaced or kept."""
UNASKED = -100
"""A label that transformers' losses leave out."""


def next_tokens(spec: EmbeddedSpec, seed: int) -> Lessons:
    """Windows whose every token is predicted from those before it."""
    text = documents("train")
    tokenizer = train_tokenizer(text, VOCABULARY)
    ids = _token_ids(tokenizer, text)

    def batches(window: int) -> Iterator[dict[str, Tensor]]:
        for rows in _windows(ids, spec.batch_tokens // window, window, seed):
            yield {"input_ids": rows, "labels": rows}

    return Lessons(tokenizer, batches(spec.first_window), batches(spec.window))


def masked_tokens(spec: EmbeddedSpec, seed: int) -> Lessons:
    """Windows between CLS and SEP, a share of whose tokens is masked and predicted.

    At first every token is predicted from those before it: that teaches what tokens are six times
    as fast, and a masked one is then found by what its neighbours expect.
    """
    text = documents("train")
    tokenizer = train_tokenizer(text, VOCABULARY)
    ids = _token_ids(tokenizer, text)
    add_edges_and_mask(tokenizer)

    def following() -> Iterator[dict[str, Tensor]]:
        window = spec.first_window
        before = torch.full((1, 1, window, window), torch.finfo(torch.float32).min).triu(1)
        for rows in _windows(ids, spec.batch_tokens // window, window + 1, seed):
            labels = rows[:, 1:].contiguous()
            yield {"input_ids": rows[:, :-1], "labels": labels, "attention_mask": before}

    def masked() -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for rows in _windows(ids, spec.batch_tokens // spec.window, spec.window - 2, seed):
            asked = torch.rand(rows.shape, generator=generator) < MASKED
            yield _masked(rows, asked, tokenizer)

    return Lessons(tokenizer, following(), masked())


def _masked(rows: Tensor, asked: Tensor, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """``rows (windows, tokens)`` with CLS, SEP and masks, and the tokens behind the masks."""
    edge = partial(rows.new_full, (len(rows), 1))
    first, last = edge(tokenizer.cls_token_id), edge(tokenizer.sep_token_id)
    shown = rows.masked_fill(asked, tokenizer.mask_token_id)
    return {
        "input_ids": torch.cat([first, shown, last], 1),
        "labels": torch.cat([edge(UNASKED), rows.masked_fill(~asked, UNASKED), edge(UNASKED)], 1),
    }


def _token_ids(tokenizer: PreTrainedTokenizerFast, text: list[str]) -> Tensor:
    """All documents, each followed by the end of text."""
    encoded = tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in [*ids, tokenizer.eos_token_id]])


def _windows(ids: Tensor, batch: int, window: int, seed: int) -> Iterator[Tensor]:
    """Endless batches ``(batch, window)``; each pass shifts and shuffles the windows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        shift = int(torch.randint(window, (1,), generator=generator))
        count = (len(ids) - shift) // window
        windows = ids[shift : shift + count * window].view(count, window)
        shuffled = windows[torch.randperm(count, generator=generator)]
        yield from shuffled[: count // batch * batch].split(batch)
