"""A checkpoint on a GPU against the CPU: its logits, and a decomposition of its first layer.

    python benchmarks/agreement.py CHECKPOINT [--device cuda|cpu]

Prints relative differences in float32. The decomposition is a plain SVD of half the FFN, of which
the errors on both devices are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.evaluation.peak_memory import random_prompt
from tensorpress.evaluation.tasks.speed import machine
from tensorpress.methods.registry import spec_class
from tensorpress.running.oom import CPU
from tensorpress.stages.decomposition import decompose_layer

BATCH, TOKENS = 2, 64


def main() -> None:
    """Print what differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    chosen = options.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        options.error("--device: cuda is not allowed; allowed: cpu, for no GPU is visible")
    device = torch.device(chosen.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = load_model(chosen.checkpoint, CPU, torch.float32)
    prompt = random_prompt(model, BATCH, TOKENS, CPU)
    with torch.inference_mode():
        here = model(prompt).logits
        there = model.to(device)(prompt.to(device)).logits
    print(f"{machine(device)} against the CPU: logits differ by {difference(here, there):.1e}")
    factors = [rebuilt(chosen.checkpoint, where) for where in (CPU, device)]
    most = max(difference(factors[0][module], factors[1][module]) for module in factors[0])
    print(f"matrices of half the values, by SVD, differ by {most:.1e}")


def difference(one: Tensor, other: Tensor) -> float:
    """Relative, by the norm of the first."""
    return float((one - other.to(one)).norm() / one.norm())


def rebuilt(checkpoint: Path, device: torch.device) -> dict[str, Tensor]:
    """The FFN of the first layer after an SVD of half its values."""
    assert "ffn.down" in Checkpoint.open(checkpoint).architecture.shape(0).modules
    spec = spec_class("svd").model_validate({"method": "svd", "budget": {"saved": 0.5}})
    found, _, _ = decompose_layer(checkpoint, spec, "ffn", 0, None, device)
    return {
        module: each.store.dense(index).float().cpu()
        for each in found
        for index, module in enumerate(each.modules)
    }


if __name__ == "__main__":
    main()
