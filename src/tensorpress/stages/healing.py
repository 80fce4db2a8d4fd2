"""Training of the factors themselves, as CompactifAI heals and Saten trains: no value is added.

Each stored value of the compressed modules is a parameter: cores, factors, values of sparse
matrices, scales. Masks, indices and codes stay; so does everything outside, but for the norms where
they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor, nn
from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.config.recovery import Factors
from tensorpress.errors import TensorpressError
from tensorpress.formats.base import Format
from tensorpress.formats.modules import Rebuildable
from tensorpress.objectives.base import predicting
from tensorpress.objectives.token_losses import Teacher
from tensorpress.stages.training import train


def heal(
    model: PreTrainedModel,
    architecture: Architecture,
    rows: Num[Tensor, "windows ..."],
    spec: Factors,
    seed: int,
    device: torch.device,
    batch: int | None = None,
    teacher: Teacher | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Train the factors of ``model``, whose weights are float32, on ``rows`` of its objective.

    Returns the trained tensors by their names in the checkpoint, float32, on the CPU. Products are
    of ``dtype``; ``batch`` and ``teacher`` as in ``recovery.recover``. AdamW's step of a value does
    not depend on the size of its gradient, so each tensor has a rate in proportion to its root mean
    square (Adafactor, Shazeer & Stern 2018, section 8): cores of one chain, whose sizes may differ
    by any scale, move alike. ``TensorpressError`` if there is nothing to train, or the loss is no
    longer finite.
    """
    torch.manual_seed(seed)
    trained = dict(_trained(model, spec))
    if not trained:
        raise TensorpressError(
            "recover.train: factors of a model that has none are not allowed; allowed: compressed "
            "layers, or adapters"
        )
    groups = [
        {"params": [each.requires_grad_()], "lr": spec.learning_rate * _root_mean_square(each)}
        for each in trained.values()
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-12)
    train(
        model,
        optimiser,
        predicting(architecture.objective, "recover"),
        rows,
        spec,
        seed,
        device,
        batch,
        teacher=teacher,
        dtype=dtype,
    )
    return {name: each.detach().float().cpu() for name, each in trained.items()}


def _trained(model: nn.Module, spec: Factors) -> Iterator[tuple[str, nn.Parameter]]:
    """Floating-point values of compressed modules, and of norms where these are trained too."""
    held: dict[int, Format] = {}
    for module in model.modules():
        if isinstance(module, Rebuildable):
            # slices that only stand beside compressed ones of a fused layer are dense
            stores = (store for store in module.stores() if store.name != "dense")
            held |= {id(value): store for store in stores for value in store.parameters()}
    norms = {id(p) for m in model.modules() if spec.norms and _is_norm(m) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        chosen = id(parameter) in held or id(parameter) in norms
        if chosen and parameter.is_floating_point():
            yield name, parameter


def _is_norm(module: nn.Module) -> bool:
    """Whether all that a module has are vectors: a gain, perhaps a shift."""
    own = list(module.parameters())
    leaf = not any(True for _ in module.children()) and not isinstance(module, Rebuildable)
    return leaf and bool(own) and all(each.ndim == 1 for each in own)


def _root_mean_square(values: Any) -> float:
    found = float(values.detach().double().square().mean().sqrt())
    return found or 1.0  # zeros have no size to go by
