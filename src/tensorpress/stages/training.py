"""The loop of every recovery: some steps of an optimiser on rows of a text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensorpress.config.recovery import Adapters, Factors, Training
from tensorpress.errors import TensorpressError
from tensorpress.objectives.base import Predicting
from tensorpress.objectives.token_losses import Teacher


def training_rows(rows: Tensor, spec: Training, seed: int) -> Tensor:
    """The rows that training meets, in order: all in turn, each round shuffled anew."""
    wanted = spec.steps * spec.accumulation * spec.batch
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-wanted // len(rows))
    order = [torch.randperm(len(rows), generator=generator) for _ in range(rounds)]
    return rows[torch.cat(order)[:wanted]]


def train(
    model: Any,
    optimiser: torch.optim.Optimizer,
    objective: Predicting,
    rows: Tensor,
    spec: Adapters | Factors,
    seed: int,
    device: torch.device,
    batch: int | None = None,
    *,
    teacher: Teacher | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Take the steps of ``spec`` at a constant rate on the mean loss of an answer.

    ``batch``: windows of one forward pass where those of ``spec`` are too many. ``dtype``: of
    products, where the weights are wider. ``TensorpressError`` where the loss is not finite.
    """
    batches = iter(training_rows(rows, spec, seed).split(spec.batch))
    mixed = dtype not in {parameter.dtype for parameter in model.parameters()}
    model.train()
    for step in tqdm(range(spec.steps), desc="recover", unit="step"):
        for _ in range(spec.accumulation):
            asked = next(batches).to(device)
            weight = 1 / (objective.answers(asked) * spec.accumulation)
            for part in asked.split(batch or spec.batch):
                with torch.autocast(device.type, dtype, enabled=mixed):
                    losses = objective.losses(model, part, weight, auxiliary=True, teacher=teacher)
                loss = float(losses.mean())
                if not math.isfinite(loss):
                    raise TensorpressError(
                        f"recover.learning_rate: {spec.learning_rate} makes the loss {loss} "
                        f"at step {step}; allowed: a smaller rate"
                    )
        optimiser.step()
        optimiser.zero_grad()
