"""seed"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tensorpress.errors import TensorpressError


@dataclass(frozen=True)
class PerplexityResult:
    nll: float
    tokens: int
    bytes: int
    perplexity_stderr: float

    @property
    def perplexity(self):
        return math.exp(self.nll / self.tokens)

    @property
    def bits_per_byte(self):
        return self.nll / math.log(2) / self.bytes


def token_windows(tokenizer, text, window, max_windows=None):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    n = len(ids) // window
    if n == 0:
        raise TensorpressError(f"corpus has {len(ids)} tokens")
    n = min(n, max_windows or n)
    return torch.tensor(ids[: n * window]).view(n, window)


@torch.inference_mode()
def perplexity(model, tokenizer, windows, batch_size, device):
    nll = 0.0
    for b in windows.split(batch_size):
        logits = model(input_ids=b.to(device)).logits.float()
        nll += float(
            torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), b[:, 1:].flatten().to(device), reduction="sum"
            )
        )
    nb = sum(len(tokenizer.decode(w[1:]).encode()) for w in windows)
    return PerplexityResult(nll, windows[:, 1:].numel(), nb, 0.0)
