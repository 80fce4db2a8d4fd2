"""Whether sequences of tokens fit the positions of a model: asked before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.errors import TensorpressError


def check_room(
    directory: Path, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], new_tokens: int = 0
) -> None:
    """Refuse prompts that, with the new tokens behind them, are longer than a model's positions.

    ``directory``: a plain or a compressed checkpoint.
    """
    architecture = Checkpoint.open(directory).architecture
    limit = architecture.size("positions")
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    if limit and longest + new_tokens > limit:
        room = f", so that {new_tokens} new ones fit into" if new_tokens else " in"
        raise TensorpressError(
            f"the longest prompt has {longest} tokens; allowed: up to {limit - new_tokens}{room} "
            f"{limit} positions ({architecture.family.key('positions')})"
        )
