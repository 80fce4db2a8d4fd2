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
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import HF_MODULES_CACHE

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import plain_architecture
from tensorpress.architectures.layers import group_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line
from tensorpress.files.stopwatch import LOAD, spent_on
from tensorpress.formats.base import STORES
from tensorpress.formats.model import disagreement, factored_class
from tensorpress.formats.modules import FactoredExperts, FactoredLinear
from tensorpress.objectives.base import Objective
from tensorpress.objectives.images import Scaling
from tensorpress.running.placement import place
from tensorpress.sources.companions import check_rows
from tensorpress.sources.contents import image_settings, vocabulary_size
from tensorpress.sources.custom_code import REFERENCES, SEAL, sealed_files


def load_model(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    spill: bool = True,
) -> PreTrainedModel:
    """The model in ``directory`` in evaluation mode; compressed ones run in factored form.

    A GPU that is too small is helped out (``placement.place``). ``DamagedFile`` if a shard is cut,
    ``TensorpressError`` if transformers finds a weight missing, left over or of another shape.
    """
    with spent_on(LOAD):
        model = _loaded(directory, dtype)
    return place(model, device, spill)


def _loaded(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    Checkpoint.open(directory).shapes()
    own_code = _register(directory)
    loaded: Any = _auto_class(directory).from_pretrained(
        directory,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=own_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report
    )
    model, report = loaded
    if said := disagreement(report):
        raise TensorpressError(f"{directory}: {said}; allowed: files of the model's weights")
    checked: PreTrainedModel = model.eval()
    return checked


def empty_model(directory: Path) -> PreTrainedModel:
    """The model that the config in ``directory`` describes, on the meta device: no values.

    Its own code runs where the params trusted it, as it does whenever the model is loaded.
    """
    own_code = _register(directory)
    config = _read_config(directory, str(directory), own_code)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(directory).from_config(
            config, trust_remote_code=own_code
        )
    return model


def objective_of(directory: Path) -> Objective:
    """What the model of a plain or a compressed checkpoint is asked."""
    return plain_architecture(_config(directory), str(directory)).objective


def _auto_class(directory: Path) -> Any:
    return getattr(transformers, objective_of(directory).auto_class)


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def _read_config(directory: Path, at: str, own_code: bool) -> PretrainedConfig:
    """The config as transformers reads it; ``at`` begins the error of values that it refuses."""
    try:
        read: PretrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=own_code)
    except Exception as error:  # its checks of values raise many kinds
        said = one_line(error).replace(str(directory), "the folder")[:200]
        raise TensorpressError(
            f"{at}: config.json is not allowed ({said}); allowed: values that transformers reads"
        ) from error
    return read


def load_reader(directory: Path, where: str | None = None) -> Any:
    """What makes rows of a corpus (``Objective.rows``) for the model in ``directory``.

    Of texts the tokenizer, of images their ``Scaling``; ``where`` as in ``load_tokenizer``.
    """
    if objective_of(directory).reads == "text":
        return load_tokenizer(directory, where)
    at = where or str(directory)
    return Scaling.of(_config(directory), image_settings(directory, at), at)


def load_tokenizer(directory: Path, where: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model; ``where`` begins errors in place of the folder's name.

    An empty one, and one with tokens that the embedding has no row for, is refused. Special tokens
    without a row are those that transformers adds where no file has them: the model was never
    given any, so here they are none.
    """
    at = where or str(directory)
    own_code = _register(directory)
    read = _read_config(directory, at, own_code)
    try:
        with spent_on(LOAD):
            tokenizer = AutoTokenizer.from_pretrained(
                directory, config=read, trust_remote_code=own_code
            )
    # the tokenizers library raises nothing more special
    except Exception as error:
        said = one_line(error).replace(str(directory), "the folder")[:200]
        raise TensorpressError(
            f"{at}: no usable tokenizer ({said}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        ) from error
    special = set(tokenizer.all_special_tokens)
    ids = [token for name, token in tokenizer.get_vocab().items() if name not in special]
    if not ids:
        raise TensorpressError(
            f"{at}: no usable tokenizer ({type(tokenizer).__name__} with special tokens only); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        )
    rows = vocabulary_size(_config(directory), at)
    check_rows(max(ids), rows, at)
    for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
        token = getattr(tokenizer, f"{name}_id")
        if token is not None and token >= rows:
            setattr(tokenizer, name, None)
    return tokenizer


def _register(directory: Path) -> bool:
    """Make a compressed checkpoint's type known, so that its bundled code is not asked for.

    Returns whether the model's own code may run: what the params trusted when it was fetched.
    """
    config = _config(directory)
    own_code = bool(sealed_files(directory))
    if STORES in config:
        model_class = factored_class(base_class(directory, config[STORES]["base_class"], own_code))
        config_class = model_class.config_class
        AutoConfig.register(config["model_type"], config_class, exist_ok=True)
        _auto_class(directory).register(config_class, model_class, exist_ok=True)
    else:
        own_class = config.get(REFERENCES, {}).get(objective_of(directory).auto_class)
        if own_code and own_class:
            base_class(directory, own_class, own_code)
    return own_code


def base_class(directory: Path, name: str, own_code: bool) -> Any:
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
    model: PreTrainedModel, architecture: Architecture, layer: int, module: str
) -> Float[Tensor, "slices out in"]:
    """The matrices of a module of a loaded model, plain or compressed; one unless experts."""
    family = architecture.family
    if group_of(module) == "experts":
        experts: Any = model.get_submodule(family.experts_path(layer))
        if not isinstance(experts, FactoredExperts):
            return family.expert_weights(experts)[module].detach()
        return torch.stack(experts.whole_weights(module.split(".")[1]))
    holder: Any = model.get_submodule(family.linear_path(layer, module))
    slot = family.slot(module)
    if isinstance(holder, FactoredLinear):  # always (out, in)
        slot, weight = dataclasses.replace(slot, transposed=False), holder.whole_weight()
    else:
        weight = holder.weight
    return slot.take(weight.detach(), architecture.shape(layer).heads)[None]
