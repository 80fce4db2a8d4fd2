"""Windows between CLS and SEP, as encoders are trained on. Torch-free at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tensorpress.errors import TensorpressError
from tensorpress.objectives.base import Objective

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

EDGES = 2
"""Tokens of a window that are no text."""
NEEDED = ("cls_token", "sep_token")


class Framed(Objective):
    """Objectives whose windows begin with CLS and end with SEP."""

    needed: ClassVar[Sequence[str]] = NEEDED
    """Tokens that a tokenizer must have."""
    least: ClassVar[int] = 1
    """Tokens of text that a window must hold."""

    def check_window(self, where: str, window: int, bos: bool = False) -> None:
        if bos:
            raise TensorpressError(
                f"{where}: a BOS before each window is not allowed; allowed: bos: false, for "
                f"{self.described} windows begin with CLS"
            )
        if window < self.least + EDGES:
            raise TensorpressError(
                f"{where}: {window} is not allowed; allowed: from {self.least + EDGES}, for CLS, "
                f"SEP and {self.least} {'tokens' if self.least > 1 else 'token'} between them"
            )

    def check_reader(self, reader: PreTrainedTokenizerBase, where: str) -> None:
        check_tokenizer(reader, self.needed, where, self.described)

    def rows(
        self,
        reader: PreTrainedTokenizerBase,
        text: str,
        window: int,
        max_windows: int | None = None,
        bos: bool = False,
    ) -> Int[Tensor, "windows ..."]:
        from tensorpress.objectives.windows import token_windows

        self.check_window("window", window, bos)
        self.check_reader(reader, "tokenizer")
        ids = token_windows(reader, text, window - EDGES, max_windows)
        return framed(reader, self.asked(reader, ids))

    def asked(
        self, tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, "windows text"]
    ) -> Int[Tensor, "windows ... text"]:
        """What rows hold of windows of text between their edges: the text, if nothing else."""
        return ids


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
