"""A text as windows of token ids: what models are calibrated, recovered and evaluated on."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.errors import TensorpressError


def token_windows(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    window: int,
    max_windows: int | None = None,
    bos: bool = False,
) -> Int[Tensor, "windows window"]:
    """The text tokenised once, without special tokens, in non-overlapping windows, tail dropped.

    With ``bos`` the first token of each window is the tokenizer's BOS, the others are text.
    ``TensorpressError`` if the tokenizer has no BOS, or the text not the tokens of one window.
    """
    if bos and tokenizer.bos_token_id is None:
        raise TensorpressError("bos: True is not allowed; allowed: False, the tokenizer has no BOS")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    length = window - bos
    count = len(ids) // length
    if count == 0:
        raise TensorpressError(
            f"the corpus has {len(ids)} tokens, too few for one window of {window}; "
            "allowed: a longer corpus or a smaller window"
        )
    count = min(count, max_windows or count)
    windows = torch.tensor(ids[: count * length]).view(count, length)
    if bos:
        windows = torch.nn.functional.pad(windows, (1, 0), value=tokenizer.bos_token_id)
    return windows
