"""Loading plain and compressed checkpoints for calibration and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.errors import TensorpressError
from tensorpress.formats.model import STORES, factored_class


def load_model(
    directory: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model in ``directory`` in evaluation mode; compressed ones run in factored form."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if STORES in config:
        base = getattr(transformers, config[STORES]["base_class"])
        model = factored_class(base).from_pretrained(directory, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model."""
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise TensorpressError(
            f"{directory}: no usable tokenizer ({' '.join(str(error).split())[:200]}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        ) from error
