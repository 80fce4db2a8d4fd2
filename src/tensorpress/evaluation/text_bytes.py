"""How many bytes of a text each of its tokens stands for: each byte belongs to exactly one token.

Bits per byte divide by the bytes of the text itself, not of what tokens decode to: a normaliser
may have changed it. Offsets say which characters a token covers. Where several tokens share
characters (byte-level BPE and byte fallback cut a character into its bytes), their bytes are told
apart by what the tokens themselves hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.evaluation.job import EvaluationJob

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A token of SentencePiece's byte fallback."""
DECODED = "bytes are those of decoded tokens, the tokenizer gives no offsets"


def predicted_bytes(
    job: EvaluationJob,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    windows: Int[Tensor, "windows window"],
    held: slice,
    predicted: slice,
) -> int:
    """UTF-8 bytes of the text's tokens that are predicted.

    ``held``: the positions of a window that hold text, ``predicted``: those that are predicted
    (``Objective.text`` and ``predicted``). A tokenizer without offsets has its tokens decoded
    instead, of which a note on the job's rows says so.
    """
    if not tokenizer.is_fast:
        job.say(DECODED)
        return _decoded_bytes(tokenizer, windows[:, predicted])
    sizes = torch.tensor(token_bytes(tokenizer, text))
    length = held.stop - held.start
    cut = sizes[: len(windows) * length].view(len(windows), length)
    return int(cut[:, predicted.start - held.start : predicted.stop - held.start].sum())


def token_bytes(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """UTF-8 bytes of ``text`` that each token stands for, by a tokenizer with offsets.

    What no token covers (a space that a tokenizer trims) goes to the next one, at the end to the
    last, so that the sum is that of the text. ``[]`` of a text without tokens.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    if not offsets:
        return []
    ends = [0, *accumulate(len(character.encode()) for character in text)]
    own = _own_bytes(tokenizer, encoded["input_ids"])
    found: list[int] = []
    first = begin = reached = 0  # of the tokens that share characters, and their last character
    for after, (_, end) in enumerate(offsets, start=1):
        reached = max(reached, end)
        is_last = after == len(offsets)
        if is_last or offsets[after][0] >= reached:
            stop = len(text) if is_last else reached
            found += _shared(ends[stop] - ends[begin], own[first:after])
            first, begin = after, stop
    return found


def _shared(total: int, own: Sequence[int]) -> list[int]:
    """Whole bytes for each of some tokens that sum to ``total``, in proportion to their own."""
    whole = max(sum(own), 1)
    limits = [0, *(total * part // whole for part in accumulate(own[:-1])), total]
    return [limit - before for before, limit in pairwise(limits)]


def _own_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Bytes that tokens hold by their names."""
    by_byte = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def size(token: str) -> int:
        if BYTE.fullmatch(token):
            return 1
        # the alphabet of byte-level BPE has a character for each byte
        return len(token) if by_byte and token not in added else len(token.encode())

    names = tokenizer.convert_ids_to_tokens(list(ids))
    known = {name: size(name) for name in set(names)}
    return [known[name] for name in names]


def _decoded_bytes(tokenizer: PreTrainedTokenizerBase, windows: Tensor) -> int:
    texts = (
        str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)) for ids in windows
    )
    # a character cut by the window's edge decodes to a replacement sign: count it as one byte
    return sum(len(text.replace("\ufffd", "?").encode()) for text in texts)
