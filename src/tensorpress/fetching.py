"""Fetch models into ``results/fetch``, verified before anything long starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers.dynamic_module_utils import get_relative_imports

from tensorpress.atomic import replacing
from tensorpress.checkpoint import Checkpoint
from tensorpress.custom_code import (
    base_class,
    check_code,
    check_names,
    code_files,
    is_native,
    seal,
    without_code,
)
from tensorpress.errors import TensorpressError
from tensorpress.families.table import family_of
from tensorpress.params import EmbeddedModel, HubModel, LocalModel, Model
from tensorpress.sources import (
    check_local,
    checkpoint_files,
    hub_file,
    hub_has,
    read_config,
    tokenizer_config,
)
from tensorpress.weightfiles import INDEX, PICKLES, SINGLE, indexed_shards, pickles_refused


def fetch_model(
    name: str,
    spec: Model,
    target: Path,
    device: torch.device,
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train (in ``dtype``), copy or download a model into ``target`` and verify its checkpoint."""
    train = partial(_train, dtype=dtype)
    fetchers: dict[str, Callable[..., None]] = {"embedded": train, "local": _copy, "hub": _download}
    with replacing(target) as temporary:
        temporary.mkdir()
        fetchers[spec.source](name, spec, temporary, device, threads)
        _verify(name, temporary)


def _train(
    name: str, spec: Model, target: Path, device: torch.device, threads: int, dtype: torch.dtype
) -> None:
    from tensorpress.embedded.training import train

    assert isinstance(spec, EmbeddedModel)
    model, tokenizer, record = train(spec.name, spec.seed, device, threads, dtype)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "training.json").write_text(json.dumps(record, default=vars, indent=1))


def _copy(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, LocalModel)
    check_local(name, spec)
    # the error names the user's file, not the copy
    Checkpoint.open(Path(spec.path)).shapes()
    # a copy, not a link: DVC makes what it tracks read-only, and the original is the user's
    for path in checkpoint_files(Path(spec.path), spec.trust_remote_code):
        shutil.copyfile(path, target / path.name)
    _settle_code(target, spec.trust_remote_code)


def _download(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, HubModel)
    for filename in ("config.json", "tokenizer_config.json"):
        shutil.copyfile(hub_file(name, spec, filename), target / filename)
    _download_code(name, spec, target)
    for filename in ("tokenizer.json", "tokenizer.model", "generation_config.json", INDEX):
        try:
            shutil.copyfile(hub_file(name, spec, filename), target / filename)
        except TensorpressError:
            continue
    for shard in _hub_shards(name, spec, target):
        shutil.copyfile(hub_file(name, spec, shard), target / shard)


def _download_code(name: str, spec: HubModel, target: Path) -> None:
    """Code that the params trust: the files that configs name, and those that they import."""
    where = f"models.{name}"
    configs = [read_config(target / "config.json", where), tokenizer_config(target, where)]
    check_code(name, configs[0], configs[1], spec.trust_remote_code)
    if spec.trust_remote_code:
        todo = code_files(where, *configs)
        while todo:
            file = todo.pop()
            shutil.copyfile(hub_file(name, spec, file), target / file)
            modules = get_relative_imports(target / file)
            imported = [f"{module}.py" for module in modules if module.isidentifier()]
            todo += [each for each in imported if not (target / each).exists()]
        check_names((path.name for path in target.glob("*.py")), where)
    _settle_code(target, spec.trust_remote_code)


def _hub_shards(name: str, spec: HubModel, target: Path) -> list[str]:
    where = f"models.{name}.repository"
    if (target / INDEX).is_file():
        return indexed_shards(target / INDEX, where)
    pickled = [] if hub_has(spec, SINGLE) else [file for file in PICKLES if hub_has(spec, file)]
    if pickled:
        raise pickles_refused(pickled, spec.repository, spec.repository.split("/")[1], where)
    return [SINGLE]


def _settle_code(target: Path, trusted: bool) -> None:
    """Seal trusted code; otherwise leave nothing in the fetched configs that names any."""
    if trusted:
        seal(target)
        return
    for path in (target / "config.json", target / "tokenizer_config.json"):
        config = read_config(path, str(target)) if path.is_file() else {}
        plain = without_code(config)
        if plain != config:
            path.write_text(json.dumps(plain, indent=1), encoding="utf-8")


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
