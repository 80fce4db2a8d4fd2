"""Weights of tiny models as users may have them, and what the pipeline makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from support.families import SIZES, auto_class, inputs, loaded
from support.stages import placed
from support.untrusted import local
from support.workspace import masked_tokenizer, save_tiny, tiny_params, tiny_tokenizer
from tensorpress.architectures.families.table import FAMILIES
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.rows import StorageRow
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.methods.svd import Spec
from tensorpress.running.oom import CPU
from tensorpress.sources.embedded.pictures import Preprocessor
from tensorpress.sources.weightfiles import INDEX, SINGLE
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer
from tensorpress.stages.fetching import fetch_model

Tensors = dict[str, Tensor]
IDS = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(0))
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def saved(model_type: str, folder: Path, **config: object) -> Path:
    """A tiny random model of a family as transformers saves it; biases are not zero."""
    torch.manual_seed(0)
    objective = FAMILIES[model_type].objective
    tokenizer = masked_tokenizer() if objective == "masked_lm" else tiny_tokenizer()
    sizes = {"vocab_size": len(tokenizer), **SIZES[model_type], **config}
    network = auto_class(model_type).from_config(AutoConfig.for_model(model_type, **sizes))
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    if objective == "image_classification":
        network.save_pretrained(folder)
        Preprocessor().save_pretrained(folder)
        return folder
    return save_tiny(network, folder, tokenizer)


def change(folder: Path, to: Callable[[Tensors], Tensors]) -> Path:
    tensors = {name: t.clone() for name, t in to(load_file(folder / SINGLE)).items()}
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def without(*names: str) -> Callable[[Tensors], Tensors]:
    def drop(tensors: Tensors) -> Tensors:
        return {name: tensors[name] for name in tensors.keys() - set(names)}

    return drop


def shard(folder: Path, index: Callable[[dict[str, str]], object] = lambda index: index) -> Path:
    """Cut the weights into two files; their index has no metadata."""
    tensors = load_file(folder / SINGLE)
    files = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": index(files)}))
    return folder


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model(**inputs(model, IDS)).logits


def reference(folder: Path) -> Tensor:
    """What transformers makes of the user's files."""
    return logits(loaded(folder).float().eval())


def refused(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(TensorpressError) as caught:
        fetch_model("m", local(folder), tmp_path / "fetched", CPU)
    assert not list(tmp_path.glob("*fetched*"))
    message = str(caught.value)
    assert ".partial" not in message
    assert "\n" not in message
    return message


def compress(model: Path, group: str, target: Path, rank: int | None = None) -> StorageRow:
    """An SVD of one group of the first layer, of full rank if none is given."""
    architecture = Checkpoint.open(model).architecture
    layer = architecture.outer if group == "embedding" else 0
    modules = architecture.shape(layer).group(group)
    full = min(min(each.out_features, each.in_features) for each in modules.values())
    spec = Spec(method="svd", rank=rank or full)
    factors, _, _ = decompose_layer(model, spec, group, layer, None, CPU)
    file = target.with_suffix(".safetensors")
    save_factors(factors, file)
    placement = placed(layer, tuple(modules), spec, file)
    storage, _ = assemble(model, [placement], "float32", target)
    return storage


def planned(model: Path, group: str, rank: int) -> tuple[int, int]:
    """Dense and stored bits that ``tensorpress plan`` says of a folder."""
    recipe = {"models": ["m"], "steps": [{"modules": [group], "method": "it"}],
              "layers": ["one"], "tasks": ["heldout"]}  # fmt: skip
    params = tiny_params() | {
        "models": {"m": {"source": "config", "path": "-"}},
        "methods": {"it": {"method": "svd", "rank": rank}},
        "layer_sets": {"one": [0]},
        "recipes": {"r": recipe},
        "reports": {},
    }
    config = json.loads((model / "config.json").read_text())
    (size,) = sizes(MetaModel("m", config, model), parse(params))
    return size.saved.dense_bits, size.saved.stored_bits
