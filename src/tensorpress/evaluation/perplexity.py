"""Perplexity of a text's windows, or what an objective has in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Num
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress.errors import TensorpressError
from tensorpress.evaluation.spread import standard_error
from tensorpress.objectives.base import Predicting


@dataclass(frozen=True)
class PerplexityResult:
    """Negative log-likelihood of what is predicted of equal windows: tokens, or a label."""

    window_nats: tuple[float, ...]
    """Mean token NLL of each window, in the order of the text."""
    predicted: int
    """Tokens of each window."""

    @property
    def tokens(self) -> int:
        """Predicted tokens of all windows."""
        return len(self.window_nats) * self.predicted

    @property
    def nats(self) -> float:
        """Mean token NLL."""
        return math.fsum(self.window_nats) / len(self.window_nats)

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean token NLL."""
        return math.exp(self.nats)

    @property
    def perplexity_stderr(self) -> float | None:
        """Standard error of the perplexity, to first order; none of a single window."""
        error = standard_error(self.window_nats)
        return None if error is None else self.perplexity * error

    def bits_per_byte(self, size: int) -> float:
        """Bits per UTF-8 byte of the ``size`` that the tokens stand for, whatever the tokenizer."""
        return self.nats * self.tokens / math.log(2) / size


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    objective: Predicting,
    rows: Num[Tensor, "windows ..."],
    batch: int,
    device: torch.device,
) -> PerplexityResult:
    """Score every answer that the rows of a corpus (``Objective.rows``) ask for.

    A window whose loss is not finite raises ``TensorpressError``; none is ever skipped.
    """
    means: list[float] = []
    predicted = 0
    for part in tqdm(rows.split(batch), desc="perplexity", unit="batch", leave=False):
        losses = objective.losses(model, part.to(device))
        predicted = losses.shape[1]
        means += losses.double().mean(1).tolist()
    for index, mean in enumerate(means):
        if not math.isfinite(mean):
            raise TensorpressError(f"window {index} of {len(means)} has a loss of {mean}")
    return PerplexityResult(tuple(means), predicted)
