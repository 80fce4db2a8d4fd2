"""How many tokens' logits may exist at a time, where losses are taken. Torch-free."""

from __future__ import annotations

LOSS_BYTES = 2**30
"""What logits and all that is made of them on the way to a loss and back may take."""
COPIES = 6
"""Float32 arrays as large as the logits at the peak: themselves, what a model makes of them behind
its head (Gemma 2's soft cap), log-probabilities, and gradients."""


def bytes_of(tokens: int, vocabulary: int) -> int:
    """Bytes that the losses of so many tokens take."""
    return 4 * COPIES * min(tokens, tokens_at_once(vocabulary)) * vocabulary


def tokens_at_once(vocabulary: int) -> int:
    """Tokens whose losses take ``LOSS_BYTES``; one, if its alone are larger."""
    return max(1, LOSS_BYTES // (4 * COPIES * vocabulary))
