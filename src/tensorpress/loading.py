"""Loading plain and compressed checkpoints for calibration and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.errors import TensorpressError
from tensorpress.formats.base import STORES
from tensorpress.formats.model import factored_class


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
