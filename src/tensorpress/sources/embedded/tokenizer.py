"""Byte-level BPE of the embedded models: lossless on any text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MASKED = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
"""What masked language models are asked with, by its name in transformers."""
# paragraph breaks, words with their space, single digits, runs of signs, other white space
PIECES = r"\n\n| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"


def train_tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A BPE of ``vocabulary`` tokens over bytes; token 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def add_edges_and_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    """Add the tokens of masked language models behind all others."""
    tokenizer.add_special_tokens({**MASKED, "pad_token": END_OF_TEXT})
