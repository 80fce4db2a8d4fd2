"""Train an embedded model, in minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from tqdm import trange
from transformers import AutoConfig, PreTrainedModel

from tensorpress.running.forkserver import function
from tensorpress.sources.embedded.lessons import Companion, Lessons
from tensorpress.sources.embedded.muon import Muon
from tensorpress.sources.embedded.neighbours import begin_at_neighbours
from tensorpress.sources.embedded.routers import hi_moe_loss
from tensorpress.sources.embedded.specs import EmbeddedSpec

BETAS = (0.8, 0.95)
FIRST_MOMENTUM, LAST_MOMENTUM, MOMENTUM_STEPS = 0.85, 0.95, 100
LEAST_RATE = 0.02
BALANCE_WEIGHT = 0.2
WRITERS = (".o_proj", ".down_proj", ".output.dense", ".fc2")
"""In names of what writes the residual stream."""


@dataclass(frozen=True)
class TrainingRecord:
    """What a training run did."""

    tokens: int
    """Of the windows that it saw."""
    parameters: int
    seconds: float
    final_loss_nats: float | None
    """Of the last batch; of an untrained model there is none."""


def train(
    spec: EmbeddedSpec,
    seed: int,
    device: torch.device,
    threads: int,
    dtype: torch.dtype,
    progress: float = 1.0,
) -> tuple[PreTrainedModel, Companion, TrainingRecord]:
    """Train an embedded model; the same seed on the same machine gives the same weights.

    Weights are float32; products are of ``dtype``. After the share ``progress`` of its steps the
    training stops, on the schedule of all of it: what it gives is what the whole training had then.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    lessons: Lessons = function(spec.lessons)(spec, seed)
    model: Any = build(spec)
    model.to(device).train()
    optimisers = _optimisers(model, spec, dtype)
    steps, taken = spec.steps(), spec.steps(progress)
    start, loss = time.perf_counter(), None
    for step in (bar := trange(taken, desc="train", unit="step")):
        _set_rates(optimisers, spec, step, steps)
        batch = next(lessons.first if step < spec.first_share * steps else lessons.then)
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = model(**inputs, use_cache=False)
        total = output.loss
        if "router_logits" in output:
            total = total + router_loss(output.router_logits, spec)
        total.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        loss = float(output.loss.detach())
        bar.set_postfix(loss=f"{loss:.3f}")
    _stop_router_outputs(model)
    record = TrainingRecord(
        tokens=taken * spec.batch_tokens,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=time.perf_counter() - start,
        final_loss_nats=loss,
    )
    return model.eval(), lessons.companion, record


def build(spec: EmbeddedSpec) -> PreTrainedModel:
    """The untrained model; a mixture gives its router's logits while it trains."""
    # on CPU the backward pass of eager attention is the fastest at these sizes
    config = AutoConfig.for_model(**spec.config, attn_implementation="eager")
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = True
    (class_name,) = spec.config["architectures"]
    model: PreTrainedModel = getattr(transformers, class_name)(config)
    for name, weight in model.named_parameters():
        # what writes the residual stream begins with nothing: the first steps go to the embedding
        if any(writer in name for writer in WRITERS):
            nn.init.zeros_(weight)
    if spec.neighbours:
        begin_at_neighbours(model)
    return model


def router_loss(router_logits: Sequence[Tensor], spec: EmbeddedSpec) -> Tensor:
    """What a mixture's routers learn beside the lessons."""
    if spec.router is None:
        return BALANCE_WEIGHT * balancing_loss(router_logits, spec)
    return hi_moe_loss(router_logits, spec.config["num_experts_per_tok"], spec.router)


def balancing_loss(router_logits: Sequence[Tensor], spec: EmbeddedSpec) -> Tensor:
    """Mean over layers of ``E sum_e f_e p_e`` (Switch Transformer, eq. 4): 1 when balanced.

    ``f_e`` is the share of assignments to expert e, ``p_e`` its mean probability, of one layer.
    transformers adds a loss of its own, but pools f and p over the layers before it multiplies
    them, so that layers may cancel out and each collapse by itself.
    """
    experts, chosen = spec.config["num_experts"], spec.config["num_experts_per_tok"]
    losses = []
    for logits in router_logits:
        probability = logits.float().softmax(-1)
        taken = nn.functional.one_hot(probability.topk(chosen).indices, experts)
        share = taken.float().mean((0, 1))
        losses.append(experts * (share * probability.mean(0)).sum())
    return torch.stack(losses).mean()


def _stop_router_outputs(model: PreTrainedModel) -> None:
    if hasattr(model.config, "output_router_logits"):
        model.config.output_router_logits = False


def _optimisers(
    model: nn.Module, spec: EmbeddedSpec, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim >= 2 and "embed" not in name and not name.endswith("mlp.gate.weight")
        (matrices if inner else others).append(parameter)
    return [
        Muon(matrices, lr=spec.matrix_rate, weight_decay=spec.weight_decay, dtype=dtype),
        torch.optim.AdamW(others, lr=spec.other_rate, betas=BETAS, weight_decay=0.0, fused=True),
    ]


def _set_rates(
    optimisers: list[torch.optim.Optimizer], spec: EmbeddedSpec, step: int, steps: int
) -> None:
    """Linear warm-up, constant, linear cool-down; Muon's momentum warms up too."""
    cooling = steps * spec.cooldown_share
    share = min(1.0, (step + 1) / spec.warmup_steps, max(LEAST_RATE, (steps - step) / cooling))
    momentum = FIRST_MOMENTUM + (LAST_MOMENTUM - FIRST_MOMENTUM) * min(1.0, step / MOMENTUM_STEPS)
    muon, adam = optimisers
    for group in muon.param_groups:
        group["lr"], group["momentum"] = spec.matrix_rate * share, momentum
    for group in adam.param_groups:
        group["lr"] = spec.other_rate * share
