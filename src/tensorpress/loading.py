"""Loading plain and compressed checkpoints for calibration and evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.errors import TensorpressError
from tensorpress.families.base import Family, Slot
from tensorpress.formats.base import STORES
from tensorpress.formats.model import factored_class
from tensorpress.formats.modules import FactoredExperts, FactoredLinear
from tensorpress.layers import group_of


def load_model(
    directory: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model in ``directory`` in evaluation mode; compressed ones run in factored form."""
    _register(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model."""
    _register(directory)
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise TensorpressError(
            f"{directory}: no usable tokenizer ({' '.join(str(error).split())[:200]}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        ) from error


def _register(directory: Path) -> None:
    """Make a compressed checkpoint's type known, so that its bundled code is not asked for."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if STORES in config:
        model_class = factored_class(getattr(transformers, config[STORES]["base_class"]))
        config_class = model_class.config_class
        AutoConfig.register(config["model_type"], config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)


def matrices(
    model: PreTrainedModel, family: Family, layer: int, module: str
) -> Float[Tensor, "slices out in"]:
    """The matrices of a module of a loaded model, plain or compressed; one unless experts."""
    if group_of(module) == "experts":
        experts: Any = model.get_submodule(family.experts_path(layer))
        if not isinstance(experts, FactoredExperts):
            return family.expert_weights(experts)[module].detach()
        store = getattr(experts, module.split(".")[1])
        return torch.stack([store.dense(expert) for expert in range(store.slices)])
    holder: Any = model.get_submodule(family.linear_path(layer, module))
    slot = family.linears.get(module, Slot(family.embedding))
    if isinstance(holder, FactoredLinear):  # always (out, in)
        slot = dataclasses.replace(slot, transposed=False)
    shape = family.layer_shape(model.config.to_dict(), layer)
    return slot.take(holder.weight.detach(), shape.heads)[None]
