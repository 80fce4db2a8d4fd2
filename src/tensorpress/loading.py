"""Loading plain and compressed checkpoints for calibration and evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import HF_MODULES_CACHE

from tensorpress.checkpoint import Checkpoint
from tensorpress.custom_code import MODEL, REFERENCES, SEAL, sealed_files
from tensorpress.errors import TensorpressError
from tensorpress.families.base import Family, Slot
from tensorpress.formats.base import STORES
from tensorpress.formats.model import factored_class
from tensorpress.formats.modules import FactoredExperts, FactoredLinear
from tensorpress.layers import group_of
from tensorpress.placement import place
from tensorpress.secrets import one_line
from tensorpress.stopwatch import LOAD, spent_on


def load_model(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    spill: bool = True,
) -> PreTrainedModel:
    """The model in ``directory`` in evaluation mode; compressed ones run in factored form.

    A GPU that is too small is helped out (``placement.place``). ``DamagedFile`` if a shard is cut.
    """
    with spent_on(LOAD):
        model = _loaded(directory, dtype)
    return place(model, device, spill)


def _loaded(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    Checkpoint.open(directory).shapes()
    own_code = _register(directory)
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, trust_remote_code=own_code
    )
    return model.eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model."""
    own_code = _register(directory)
    try:
        with spent_on(LOAD):
            return AutoTokenizer.from_pretrained(directory, trust_remote_code=own_code)
    except (OSError, ValueError) as error:
        raise TensorpressError(
            f"{directory}: no usable tokenizer ({one_line(error)[:200]}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        ) from error


def _register(directory: Path) -> bool:
    """Make a compressed checkpoint's type known, so that its bundled code is not asked for.

    Returns whether the model's own code may run: what the params trusted when it was fetched.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    own_code = bool(sealed_files(directory))
    if STORES in config:
        model_class = factored_class(_base_class(directory, config[STORES]["base_class"], own_code))
        config_class = model_class.config_class
        AutoConfig.register(config["model_type"], config_class, exist_ok=True)
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    elif own_code and MODEL in config.get(REFERENCES, {}):
        _base_class(directory, config[REFERENCES][MODEL], own_code)
    return own_code


def _base_class(directory: Path, name: str, own_code: bool) -> Any:
    """A class of transformers, or ``file.Class`` of the model's own code."""
    if "." not in name:
        return getattr(transformers, name)
    if not own_code:
        raise TensorpressError(
            f"{directory}: {name} is not allowed; allowed: a class of transformers, or code that "
            f"the params trusted ({SEAL})"
        )
    # jobs copy code into one folder: none may read what another has half written
    Path(HF_MODULES_CACHE).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(HF_MODULES_CACHE) / "tensorpress.lock"):
        return get_class_from_dynamic_module(name, directory)


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
