"""Windows between CLS and SEP, as encoders are trained on. Torch-free at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensorpress.errors import TensorpressError

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

EDGES = 2
"""Tokens of a window that are no text."""
NEEDED = ("cls_token", "sep_token")


def check_window(where: str, window: int, bos: bool, tokens: int, described: str) -> None:
    """Refuse a BOS, and windows with fewer than ``tokens`` of text; ``where`` begins the error."""
    if bos:
        raise TensorpressError(
            f"{where}: a BOS before each window is not allowed; allowed: bos: false, for "
            f"{described} windows begin with CLS"
        )
    if window < tokens + EDGES:
        raise TensorpressError(
            f"{where}: {window} is not allowed; allowed: from {tokens + EDGES}, for CLS, SEP and "
            f"{tokens} {'tokens' if tokens > 1 else 'token'} between them"
        )


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, needed: Sequence[str], where: str, described: str
) -> None:
    """Refuse a tokenizer without the tokens that are needed; ``where`` begins the error."""
    lacking = [name for name in needed if getattr(tokenizer, f"{name}_id") is None]
    if lacking:
        raise TensorpressError(
            f"{where}: a tokenizer without {', '.join(lacking)} is not allowed; allowed: one "
            f"with {', '.join(needed)}, for {described}"
        )


def framed(
    tokenizer: PreTrainedTokenizerBase, text: Int[Tensor, "... text"]
) -> Int[Tensor, "... window"]:
    """Tokens of text with CLS before and SEP behind them."""
    import torch

    first, last = (
        text.new_full((*text.shape[:-1], 1), edge)
        for edge in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    )
    return torch.cat([first, text, last], dim=-1)
