"""Perplexity by the locked protocol of methods.md section 5."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress.errors import TensorpressError
from tensorpress.evaluation.spread import standard_error
from tensorpress.next_token import next_token_losses


@dataclass(frozen=True)
class PerplexityResult:
    """Negative log-likelihood in nats of the predicted tokens, and what they are."""

    nll_nats: float
    tokens: int
    bytes: int
    windows: int
    nll_stderr: float | None
    """Standard error of the mean token NLL, from the means of the windows; none of a single one."""

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean token NLL."""
        return math.exp(self.nll_nats / self.tokens)

    @property
    def perplexity_stderr(self) -> float | None:
        """Standard error of the perplexity, to first order."""
        return None if self.nll_stderr is None else self.perplexity * self.nll_stderr

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the text that is predicted, comparable between tokenizers."""
        return self.nll_nats / math.log(2) / self.bytes


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    windows: Int[Tensor, "windows window"],
    batch: int,
    device: torch.device,
    predicted_bytes: int,
) -> PerplexityResult:
    """Score every token of every window but the first, given those before it in the window.

    ``predicted_bytes``: of the text that these tokens stand for. A window whose loss is not finite
    raises ``TensorpressError``; none is ever skipped.
    """
    means: list[float] = []
    for ids in tqdm(windows.split(batch), desc="perplexity", unit="batch", leave=False):
        means += next_token_losses(model, ids.to(device)).double().mean(1).tolist()
    for index, mean in enumerate(means):
        if not math.isfinite(mean):
            raise TensorpressError(f"window {index} of {len(means)} has a loss of {mean}")
    predicted = windows.shape[1] - 1
    return PerplexityResult(
        nll_nats=sum(means) * predicted,
        tokens=len(means) * predicted,
        bytes=predicted_bytes,
        windows=len(means),
        nll_stderr=standard_error(means),
    )
