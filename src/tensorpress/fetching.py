"""Fetch models into ``results/fetch``, verified before anything long starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers.dynamic_module_utils import get_relative_imports

from tensorpress.atomic import replacing
from tensorpress.checkpoint import Checkpoint
from tensorpress.companions import CONFIGS, check_tokenizer, companions, copy_files
from tensorpress.custom_code import (
    base_class,
    check_code,
    check_names,
    code_files,
    is_native,
    seal,
    sealed_files,
    without_code,
)
from tensorpress.errors import TensorpressError
from tensorpress.families.table import family_of
from tensorpress.hub_models import CONFIG, check_there, hub_file, hub_names
from tensorpress.loading import load_tokenizer
from tensorpress.params import EmbeddedModel, HubModel, LocalModel, Model
from tensorpress.sources import (
    check_local,
    checkpoint_files,
    read_config,
    tokenizer_config,
    vocabulary_size,
)
from tensorpress.weightfiles import INDEX, PICKLES, SINGLE, indexed_shards, pickles_refused


def fetch_model(
    name: str, spec: Model, target: Path, device: torch.device, threads: int = 1
) -> None:
    """Train, copy or download a model into ``target`` and verify its checkpoint."""
    fetchers = {"embedded": _train, "local": _copy, "hub": _download}
    with replacing(target) as temporary:
        temporary.mkdir()
        fetchers[spec.source](name, spec, temporary, device, threads)
        _verify(name, temporary)


def _train(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    from tensorpress.embedded.training import train

    assert isinstance(spec, EmbeddedModel)
    model, tokenizer, record = train(spec.name, spec.seed, device, threads)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "training.json").write_text(json.dumps(record, default=vars, indent=1))


def _copy(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, LocalModel)
    check_local(name, spec)
    # the error names the user's file, not the copy
    Checkpoint.open(Path(spec.path)).shapes()
    # a copy, not a link: DVC makes what it tracks read-only, and the original is the user's
    directory = Path(spec.path)
    files = checkpoint_files(directory, spec.trust_remote_code)
    weights = [file for file in files if file.endswith(".safetensors")]
    copy_files([file for file in files if file not in weights], directory, target)
    _settle_code(target, spec.trust_remote_code)
    _check_tokenizer(name, target)
    copy_files(weights, directory, target)


def _download(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, HubModel)
    names = hub_names(name, spec)
    for file in (CONFIG, *companions(names, spec.trust_remote_code)):
        _bring(name, spec, file, target)
    _download_code(name, spec, target)
    shards = _hub_shards(name, spec, names, target)
    check_there(name, spec, shards, names)
    _check_tokenizer(name, target)
    for shard in shards:
        _bring(name, spec, shard, target)


def _download_code(name: str, spec: HubModel, target: Path) -> None:
    """Code that the params trust: the files that configs name, and those that they import."""
    where = f"models.{name}"
    configs = [read_config(target / file, where) for file in _configs(target)]
    check_code(name, configs[0], tokenizer_config(target, where), spec.trust_remote_code)
    if spec.trust_remote_code:
        todo = code_files(where, *configs)
        while todo:
            file = todo.pop()
            _bring(name, spec, file, target)
            modules = get_relative_imports(target / file)
            imported = [f"{module}.py" for module in modules if module.isidentifier()]
            todo += [each for each in imported if not (target / each).exists()]
        check_names((path.name for path in target.glob("*.py")), where)
    _settle_code(target, spec.trust_remote_code)


def _bring(name: str, spec: HubModel, file: str, target: Path) -> None:
    (target / file).parent.mkdir(exist_ok=True)
    shutil.copyfile(hub_file(name, spec, file), target / file)


def _hub_shards(name: str, spec: HubModel, names: list[str], target: Path) -> list[str]:
    where = f"models.{name}.repository"
    if INDEX in names:
        _bring(name, spec, INDEX, target)
        return indexed_shards(target / INDEX, where)
    pickled = [] if SINGLE in names else [file for file in PICKLES if file in names]
    if pickled:
        raise pickles_refused(pickled, spec.repository, spec.repository.split("/")[1], where)
    return [SINGLE]


def _check_tokenizer(name: str, directory: Path) -> None:
    """Read the tokenizer before the weights come; code of its own runs where the model does."""
    if not sealed_files(directory):
        where = f"models.{name}"
        rows = vocabulary_size(read_config(directory / CONFIG, where), where)
        check_tokenizer(directory, rows, where)
        load_tokenizer(directory, where)


def _configs(directory: Path) -> list[str]:
    """The configs in a folder that can name code, the model's first."""
    return [CONFIG, *(file for file in CONFIGS if (directory / file).is_file())]


def _settle_code(target: Path, trusted: bool) -> None:
    """Seal trusted code; otherwise leave nothing in the fetched configs that names any."""
    if trusted:
        seal(target)
        return
    for file in _configs(target):
        config = read_config(target / file, file)
        plain = without_code(config)
        if plain != config:
            (target / file).write_text(json.dumps(plain, indent=1), encoding="utf-8")


def _verify(name: str, directory: Path) -> None:
    """Every weight of every layer is there, with the config's shape, and finite."""
    checkpoint = Checkpoint.open(directory)
    if "." not in base_class(checkpoint.config) and not is_native(checkpoint.config):
        raise TensorpressError(
            f"models.{name}: architectures: {checkpoint.config['architectures']} is not allowed; "
            "allowed: a causal language model of transformers"
        )
    family = family_of(checkpoint.config, f"models.{name}")
    stored = checkpoint.shapes()
    for layer in range(family.layer_count(checkpoint.config)):
        shape = family.layer_shape(checkpoint.config, layer)
        for module, expected in shape.modules.items():
            source = family.weight_source(layer, module, shape, stored)
            for tensor in source.names:
                if tensor not in stored:
                    raise TensorpressError(f"models.{name}: tensor {tensor} is missing")
            # meta tensors have shapes and no values
            empty = [torch.empty(stored[tensor], device="meta") for tensor in source.names]
            found = tuple(source.take(empty).shape)[-2:]
            if found != (expected.out_features, expected.in_features):
                raise TensorpressError(
                    f"models.{name}: {module} of layer {layer} ({source.names[0]}) has shape "
                    f"{found}, config.json says ({expected.out_features}, {expected.in_features})"
                )
    checkpoint.verify()
