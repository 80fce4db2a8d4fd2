"""LoRA recovery (Hu et al. 2022): adapters trained on text while all factors stay as they are.

Through peft, on compressed layers of every format and, if wanted, on plain ones. Experts run one
by one while they are trained, so that each projection of each expert is a layer for peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Num
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import group_of
from tensorpress.config.recovery import Adapters
from tensorpress.errors import TensorpressError
from tensorpress.formats.base import Format
from tensorpress.formats.low_rank import LowRank
from tensorpress.formats.modules import PROJECTIONS, FactoredExperts, FactoredLinear
from tensorpress.objectives.base import predicting
from tensorpress.objectives.token_losses import Teacher
from tensorpress.stages.training import train

NAME = "recovery"


def recover(
    model: PreTrainedModel,
    architecture: Architecture,
    rows: Num[Tensor, "windows ..."],
    spec: Adapters,
    seed: int,
    device: torch.device,
    batch: int | None = None,
    teacher: Teacher | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Format]:
    """Train adapters of ``model`` on ``rows`` of its objective; the model is used up.

    ``batch``: windows of one forward pass where those of ``spec`` are too many; the steps remain.
    ``teacher``: what they learn from beside the text; ``dtype``: of products.
    Returns low-rank formats by module path: one slice for a linear layer, one an expert for a
    projection of experts (``...experts.gate``). The scale ``alpha / rank`` is part of the values.
    ``TensorpressError`` if no layer can be adapted, or the loss is no longer finite.
    """
    torch.manual_seed(seed)
    adapted = {**_linears(model, architecture, spec), **_experts(model)}
    if not adapted:
        raise TensorpressError(
            "recover: the model has no layer to adapt; allowed: compressed layers"
        )
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=[path for paths in adapted.values() for path in paths],
    )
    # how peft is told of layers that are not its own
    config._register_custom_module({FactoredLinear: PeftLinear})
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of unknown layers
        tuned = get_peft_model(model, config, adapter_name=NAME)
    inner: Any = tuned.get_base_model()
    optimiser = torch.optim.AdamW(
        [p for p in inner.parameters() if p.requires_grad], lr=spec.learning_rate
    )
    train(
        inner,
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
    return {
        path: _store([inner.get_submodule(each) for each in paths])
        for path, paths in adapted.items()
    }


def _linears(
    model: PreTrainedModel, architecture: Architecture, spec: Adapters
) -> dict[str, list[str]]:
    """Factored linear layers, and with ``modules: all`` the plain ones of every layer."""
    plain = set()
    if spec.modules == "all":
        for layer in range(architecture.layers):
            linear = (
                module
                for module in architecture.shape(layer).modules
                if group_of(module) != "experts"
            )
            plain |= {architecture.family.linear_path(layer, module) for module in linear}
    found: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        in_layers = path in plain and isinstance(module, nn.Linear | Conv1D)
        if in_layers or isinstance(module, FactoredLinear):
            found[path] = [path]
    return found


def _experts(model: nn.Module) -> dict[str, list[str]]:
    """Separate the factored experts; the layers of each of their projections."""
    found: dict[str, list[str]] = {}
    modules = [(p, m) for p, m in model.named_modules() if isinstance(m, FactoredExperts)]
    for path, module in modules:
        model.set_submodule(path, SeparateExperts(module))
        for name in PROJECTIONS:
            slices = range(module.gate.slices)
            found[f"{path}.{name}"] = [f"{path}.layers.{name}.{expert}" for expert in slices]
    return found


def _store(layers: Sequence[Any]) -> Format:
    """The adapters of one layer, or of one projection of every expert, as a low-rank format."""
    scale = layers[0].scaling[NAME]
    left = torch.stack([each.lora_B[NAME].weight.detach() * scale for each in layers])
    right = torch.stack([each.lora_A[NAME].weight.detach() for each in layers])
    sizes = {"slices": len(layers), "out_features": left.shape[1], "in_features": right.shape[2]}
    store = LowRank(**sizes, rank=left.shape[2])
    return store.fill(left=left.float().cpu(), right=right.float().cpu())


class SeparateExperts(FactoredExperts):
    """Factored experts in which each projection of each expert is a layer of its own."""

    def __init__(self, experts: FactoredExperts) -> None:
        stores = {name: getattr(experts, name) for name in PROJECTIONS}
        super().__init__(**stores, act=experts.act, biases=experts.biases)
        for name, bias in experts.named_parameters(recurse=False):
            setattr(self, name, bias)
        self.layers = nn.ModuleDict(
            {
                name: nn.ModuleList(FactoredLinear([(s, e)], False) for e in range(s.slices))
                for name, s in stores.items()
            }
        )

    def _project(self, name: str, x: Tensor, ends: Tensor) -> Tensor:
        layers: Any = self.layers[name]
        counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
        return torch.cat([layer(rows) for layer, rows in zip(layers, x.split(counts), strict=True)])
