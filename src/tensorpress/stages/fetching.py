"""Fetch models into ``results/fetch``, verified before anything long starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.dynamic_module_utils import get_relative_imports

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.completeness import contents
from tensorpress.checkpoints.gguf_tokenizers import write_tokenizer
from tensorpress.checkpoints.loading import empty_model, load_reader, objective_of
from tensorpress.checkpoints.quantised.dequantise import dequantise
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line
from tensorpress.files.atomic import replacing
from tensorpress.running.forkserver import function
from tensorpress.sources.companions import CONFIGS, check_tokenizer, companions, copy_files
from tensorpress.sources.contents import (
    FETCHERS,
    check_gguf,
    check_local,
    gguf_of,
    local_files,
    model_config,
    read_config,
    tokenizer_config,
    vocabulary_size,
)
from tensorpress.sources.custom_code import (
    base_class,
    check_code,
    check_names,
    code_files,
    is_native,
    seal,
    sealed_files,
    without_code,
)
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.gguf_files import SUFFIX, read_header
from tensorpress.sources.headers import Stored, rewrite, tensors_in
from tensorpress.sources.hub_models import CONFIG, check_there, hub_file, hub_names
from tensorpress.sources.inputs import EmbeddedModel, HubModel, LocalModel, Model
from tensorpress.sources.quantised import Origin, dequantised_config, quantisation
from tensorpress.sources.weightfiles import (
    INDEX,
    PICKLES,
    SINGLE,
    check_index,
    check_one_set,
    held_tensors,
    indexed_shards,
    pickles_refused,
    write_index,
)

Fetcher = Callable[[str, Any, Path, torch.device, int, torch.dtype], dict[str, Stored]]


def fetch_model(
    name: str,
    spec: Model,
    target: Path,
    device: torch.device,
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
    stored: str = "float32",
) -> None:
    """Train (in ``dtype``), copy or download a model into ``target``, named as its class names it.

    Quantised weights are written as plain ones of dtype ``stored``. Whatever of the files cannot be
    what the model runs with is refused before it is copied.
    """
    fetch: Fetcher = function(FETCHERS[spec.source])
    with replacing(target) as temporary:
        temporary.mkdir()
        try:
            tensors = fetch(name, spec, temporary, device, threads, dtype)
            where = f"models.{name}"
            config = read_config(temporary / CONFIG, where)
            if codes := quantisation(config, where):
                bits = dequantise(name, codes, tensors, stored, temporary)
                tensors = held_tensors(temporary, where)
                text = json.dumps(dequantised_config(config, stored), indent=1)
                (temporary / CONFIG).write_text(text, encoding="utf-8")
            used = _write_weights(name, tensors, temporary)
            if codes:
                kept = sum(bits[given] for given, each in tensors.items() if each in used)
                Origin(kept, codes.described).write(temporary)
            Checkpoint.open(temporary).verify()
        except TensorpressError as error:
            # that folder is gone when the error is read
            message = str(error).replace(str(temporary), _origin(spec))
            if message == str(error):
                raise
            raise TensorpressError(message) from error


def _origin(spec: Model) -> str:
    """Where a model comes from, in the user's words."""
    if isinstance(spec, LocalModel):
        return spec.path
    return f"{spec.repository}@{spec.revision[:8]}" if isinstance(spec, HubModel) else spec.source


def train(
    name: str,
    spec: EmbeddedModel,
    target: Path,
    device: torch.device,
    threads: int,
    dtype: torch.dtype,
) -> dict[str, Stored]:
    """The tensors of an embedded model, trained in ``dtype`` into ``target``."""
    from tensorpress.sources.embedded import training

    trained = spec_of(f"models.{name}", spec.name, spec.width)
    model, companion, record = training.train(
        trained, spec.seed, device, threads, dtype, spec.progress
    )
    model.save_pretrained(target)
    companion.save_pretrained(target)
    (target / "training.json").write_text(json.dumps(record, default=vars, indent=1))
    return held_tensors(target, f"models.{name}")


def copy(
    name: str, spec: LocalModel, target: Path, *_: torch.device | int | torch.dtype
) -> dict[str, Stored]:
    """The tensors of a folder, where they are; what goes with them is copied into ``target``."""
    check_local(name, spec)
    # a copy, not a link: DVC makes what it tracks read-only, and the original is the user's
    directory, files = local_files(name, spec)
    copy_files([f for f in files if not f.endswith((SUFFIX, ".safetensors"))], directory, target)
    if (file := gguf_of(name, spec)) is not None:
        return _settle_gguf(name, spec, file, target)
    _settle_code(target, spec.trust_remote_code)
    _check_reader(name, target)
    return held_tensors(directory, f"models.{name}.path")


def download(
    name: str, spec: HubModel, target: Path, *_: torch.device | int | torch.dtype
) -> dict[str, Stored]:
    """The tensors of a repository, in the hub's cache; what goes with them goes into ``target``."""
    names = hub_names(name, spec)
    beside = companions(names, spec.trust_remote_code)
    if (gguf := gguf_of(name, spec)) is not None:
        for file in beside:
            _bring(name, spec, file, target)
        return _settle_gguf(name, spec, gguf, target)
    for file in (CONFIG, *beside):
        _bring(name, spec, file, target)
    _download_code(name, spec, target)
    shards = _hub_shards(name, spec, names, target)
    _check_reader(name, target)
    return _hub_tensors(name, spec, shards, target)


def _settle_gguf(
    name: str, spec: LocalModel | HubModel, file: Path, target: Path
) -> dict[str, Stored]:
    """The tensors of a GGUF file, whose config and tokenizer are written as files."""
    check_gguf(name, spec, file)
    config = json.dumps(model_config(name, spec), indent=1)
    (target / CONFIG).write_text(config, encoding="utf-8")
    _settle_code(target, trusted=False)
    write_tokenizer(file, target, f"models.{name}")
    _check_reader(name, target)
    return dict(read_header(file).tensors)


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
    """The files with a repository's weights, all of which it has; their index is brought."""
    where = f"models.{name}.repository"
    shards = [SINGLE]
    if INDEX in names:
        _bring(name, spec, INDEX, target)
        shards = indexed_shards(target / INDEX, where)
        check_one_set(shards, SINGLE in names, where)
    elif SINGLE not in names and (pickled := [file for file in PICKLES if file in names]):
        raise pickles_refused(pickled, spec.repository, spec.repository.split("/")[1], where)
    check_there(name, spec, shards, names)
    return shards


def _hub_tensors(name: str, spec: HubModel, shards: list[str], target: Path) -> dict[str, Stored]:
    files = [hub_file(name, spec, shard) for shard in shards]
    if (target / INDEX).is_file():
        return check_index(target / INDEX, files, f"models.{name}.repository")
    return tensors_in(files[0])


def _check_reader(name: str, directory: Path) -> None:
    """Read what reads for a model before the weights come; its own code runs where that does."""
    if not sealed_files(directory):
        where, objective = f"models.{name}", objective_of(directory)
        if objective.reads == "text":
            rows = vocabulary_size(read_config(directory / CONFIG, where), where)
            check_tokenizer(directory, rows, where)
        objective.check_reader(load_reader(directory, where), where)


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


def _write_weights(name: str, stored: Mapping[str, Stored], target: Path) -> set[Stored]:
    """Copy what is the weights of the model whose config is in ``target``, file by file.

    What stands there then is what the model runs with: the names are its own, no tensor has no
    place in it, and the config says whether its head is tied. Returns the tensors of the files that
    it is.
    """
    config = read_config(target / "config.json", f"models.{name}")
    if "." not in base_class(config) and not is_native(config):
        raise TensorpressError(
            f"models.{name}: architectures: {config['architectures']} is not allowed; "
            f"allowed: {objective_of(target).described}"
        )
    architecture = architecture_of(config, f"models.{name}")
    try:
        model = empty_model(target)
    except Exception as error:  # of a config's values, or of code that comes with a model
        raise TensorpressError(
            f"models.{name}: {base_class(config)} cannot be built from config.json "
            f"({type(error).__name__}: {one_line(error)[:200]}); allowed: a model that "
            "transformers builds without values, as it does to load it"
        ) from error
    held = contents(name, model, architecture, stored)
    _check_modules(name, architecture, held.tensors)
    if held.untied:
        untied = {**config, "tie_word_embeddings": False}
        (target / "config.json").write_text(json.dumps(untied, indent=1), encoding="utf-8")
    files: dict[Path, dict[str, Stored]] = {}
    for place, tensor in held.tensors.items():
        files.setdefault(tensor.path, {})[place] = tensor
    for path, tensors in files.items():
        new = target / f"{path.name}.new"
        if tensors == {given: each for given, each in stored.items() if each.path == path}:
            shutil.copyfile(path, new)
        else:
            rewrite(tensors, new)
        new.replace(target / path.name)
    (target / INDEX).unlink(missing_ok=True)
    if [path.name for path in files] != [SINGLE]:
        size = sum((target / path.name).stat().st_size for path in files)
        weight_map = {place: tensor.path.name for place, tensor in held.tensors.items()}
        write_index(target, weight_map, size)
    return set(held.tensors.values())


def _check_modules(name: str, architecture: Architecture, tensors: Mapping[str, Stored]) -> None:
    """The modules of every layer have the shapes that their family takes from the config."""
    for layer in range(architecture.layers):
        for module, expected in architecture.shape(layer).modules.items():
            source = architecture.weight_source(layer, module, tensors)
            # meta tensors have shapes and no values
            empty = [torch.empty(tensors[each].shape, device="meta") for each in source.names]
            found = tuple(source.take(empty).shape)[-2:]
            if found != (expected.out_features, expected.in_features):
                raise TensorpressError(
                    f"models.{name}: {module} of layer {layer} ({source.names[0]}) has shape "
                    f"{found}, config.json says ({expected.out_features}, {expected.in_features})"
                )
