"""Seconds and memory of next-token losses and their gradients at a large vocabulary.

    python benchmarks/losses.py [--size small|full] [--threads N] [--chunk TOKENS]

A Llama of one small layer, so that head and cross entropy are what takes time. ``transposed``:
cross entropy over ``(batch, vocabulary, tokens)`` of all logits together, ``rows``: over ``(tokens,
vocabulary)`` of the same, ``chunks``: those of ``causal_lm``. Forward alone, then forward and
backward to the hidden states. ``MiB`` is the most that one call with gradients allocates, by the
profiler's count; ``loss`` and ``gradient`` are the largest differences from ``transposed``,
relative to the largest loss and gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from forward import extra_bytes, seconds
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from tensorpress.files.logits import LOSS_BYTES
from tensorpress.objectives import registry

SIZES = {"small": (1000, 64), "full": (262_144, 512)}
"""Vocabulary, and tokens of each of two windows."""
REPEATS = 3


def main() -> None:
    """Print one line a way of taking losses."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SIZES, default="small")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--chunk", type=int, help=f"default: what {LOSS_BYTES} bytes hold")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    vocabulary, window = SIZES[chosen.size]
    model, asked = tiny(vocabulary), registry.load("causal_lm")
    ids = torch.randint(vocabulary, (2, window))
    ways: dict[str, Callable[[float], Tensor]] = {
        "transposed": lambda weight: together(model, ids, weight, transposed=True),
        "rows": lambda weight: together(model, ids, weight, transposed=False),
        "chunks": lambda weight: asked.losses(model, ids, weight, chunk=chosen.chunk),
    }
    forward = seconds({name: lambda way=way: way(0.0) for name, way in ways.items()}, REPEATS)
    both = seconds({name: lambda way=way: way(1.0) for name, way in ways.items()}, REPEATS)
    found = {name: (way(0.0), gradient(model, way)) for name, way in ways.items()}
    table = Table("losses", "forward s", "with gradients s", "MiB", "loss", "gradient")
    for name, way in ways.items():
        mebibytes = extra_bytes(lambda way=way: way(1.0)) / 2**20
        differences = [
            float((own - first).abs().max() / first.abs().max())
            for own, first in zip(found[name], found["transposed"], strict=True)
        ]
        table.add_row(
            name,
            f"{forward[name]:.3f}",
            f"{both[name]:.3f}",
            f"{mebibytes:,.1f}",
            *(f"{difference:.1e}" for difference in differences),
        )
    Console(width=120).print(table)


def tiny(vocabulary: int) -> LlamaForCausalLM:
    """A model of which only the final norm learns."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    return model


def gradient(model: LlamaForCausalLM, way: Callable[[float], Tensor]) -> Tensor:
    """Of the summed losses by the final norm."""
    weight = model.model.norm.weight
    weight.grad = None
    way(1.0)
    return weight.grad.clone()


def together(model: LlamaForCausalLM, ids: Tensor, weight: float, transposed: bool) -> Tensor:
    """Losses of all logits at once."""
    with torch.set_grad_enabled(bool(weight)):
        logits, targets = model(input_ids=ids, use_cache=False).logits[:, :-1].float(), ids[:, 1:]
        if transposed:
            losses = cross_entropy(logits.mT, targets, reduction="none")
        else:
            losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        if weight:
            (weight * losses.sum()).backward()
    return losses.detach().view(targets.shape)


if __name__ == "__main__":
    main()
