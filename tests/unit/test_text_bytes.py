"""Each byte of a text belongs to exactly one token, whatever the tokenizer makes of it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from support.workspace import tiny_text, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.text_bytes import DECODED, predicted_bytes, token_bytes
from tensorpress.objectives.windows import token_windows

ODD = "a é 😀x\u200d  ☕☕ word\n\n日本 \r\n e\u0301 ﬁ\ufeff<end>  "


def byte_level(**parts: object) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def byte_fallback() -> PreTrainedTokenizerFast:
    """A BPE as SentencePiece's: spaces are marks, unknown characters their bytes."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "w", "o", "▁a"]
    vocabulary = {name: index for index, name in enumerate(names)}
    model = models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {
    "byte level": byte_level(),
    "trimmed": byte_level(post_processor=processors.ByteLevel(trim_offsets=True)),
    "composed": byte_level(normalizer=normalizers.NFC()),
    "compatible": byte_level(normalizer=normalizers.NFKC()),
    "stripped": byte_level(normalizer=normalizers.Strip()),
    "byte fallback": byte_fallback(),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", [ODD, "é", "  ", "😀😀", tiny_text()[:3000]])
def test_no_byte_is_lost_or_counted_twice(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    found = token_bytes(tokenizer, text)
    assert len(found) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert min(found, default=0) >= 0
    if found:
        assert sum(found) == len(text.encode())


def test_tokens_of_byte_level_bpe_have_the_bytes_that_they_hold() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(ODD)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    expected = [5 if name == "<end>" else len(name) for name in names]
    assert token_bytes(tokenizer, ODD) == expected
    assert token_bytes(tokenizer, "é😀") == [1] * 6


def test_byte_fallback_gives_a_byte_a_token() -> None:
    # the mark that is put before the text is none of its bytes
    tokenizer = byte_fallback()
    assert tokenizer.convert_ids_to_tokens(tokenizer("a é")["input_ids"])[-2:] == [
        "<0xC3>", "<0xA9>",
    ]  # fmt: skip
    assert token_bytes(tokenizer, "a é") == [1, 1, 1, 1]


def test_a_normaliser_does_not_change_the_bytes() -> None:
    """``e`` and an accent, three bytes, become one character of two."""
    tokenizer = TOKENIZERS["composed"]
    text = "e\u0301" * 3
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == "é" * 3
    assert sum(token_bytes(tokenizer, text)) == 9


CUT = slice(0, 16), slice(1, 16)


def job(folder: Path) -> EvaluationJob:
    return EvaluationJob(folder, None, {}, torch.device("cpu"))


@pytest.mark.parametrize("bos", [False, True])
def test_windows_leave_out_their_first_position(bos: bool, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<end>"
    text = "é" * 20  # forty tokens of a byte
    windows = token_windows(tokenizer, text, 8, None, bos)
    assert windows.shape == (5, 8)
    # with BOS first, seven of eight are text, and all of them are predicted
    assert (
        predicted_bytes(job(tmp_path), tokenizer, text, windows, slice(int(bos), 8), slice(1, 8))
        == 5 * 7
    )


def test_a_tokenizer_without_offsets_is_named(tmp_path: Path) -> None:
    fast = tiny_tokenizer()
    slow = Mock(spec=PreTrainedTokenizerBase, is_fast=False, decode=fast.decode)
    text = tiny_text()[:500]
    windows = token_windows(fast, text, 16)
    noted = job(tmp_path)
    found = predicted_bytes(noted, slow, text, windows, *CUT)
    assert noted.notes == [DECODED]
    assert found == predicted_bytes(job(tmp_path), fast, text, windows, *CUT)  # plain ASCII
