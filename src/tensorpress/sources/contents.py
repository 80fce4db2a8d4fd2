"""Where models and corpora come from, as far as planning needs it: configs and fingerprints.

Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorpress.architectures.families.table import reads_images
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import replacing
from tensorpress.keying.keys import file_fingerprint
from tensorpress.objectives.images import Scaling
from tensorpress.sources.companions import (
    PREPROCESSOR,
    TOKENIZER_CONFIG,
    check_rows,
    check_tokenizer,
    companions,
    files_of,
    largest_id,
    matching,
)
from tensorpress.sources.custom_code import check_code, check_names, code_files, own_tokenizer
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.gguf_configs import gguf_config
from tensorpress.sources.gguf_files import gguf_file, read_header
from tensorpress.sources.hub_models import CONFIG, hub_file, hub_names
from tensorpress.sources.inputs import (
    ConfigModel,
    Corpus,
    DigitsCorpus,
    EmbeddedCorpus,
    EmbeddedModel,
    FileCorpus,
    HubModel,
    LocalModel,
    Model,
)
from tensorpress.sources.quantised import dequantised_config, quantisation
from tensorpress.sources.weightfiles import INDEX, check_weights

UNKEYED = "sources are part of a key by their content"

FETCHERS: dict[str, str] = {
    "embedded": "tensorpress.stages.fetching:train",
    "local": "tensorpress.stages.fetching:copy",
    "hub": "tensorpress.stages.fetching:download",
}
"""Source of a model -> the function that brings what it is made of."""
READERS: dict[str, str] = {
    "embedded": "tensorpress.sources.corpora:prose",
    "digits": "tensorpress.sources.corpora:images",
    "file": "tensorpress.sources.corpora:file",
    "wikitext2": "tensorpress.sources.corpora:wikitext2",
    "c4": "tensorpress.sources.corpora:c4",
}
"""Source of a corpus -> the function that reads its text."""

_BLOCK = 2**24
"""Characters of a text that are read at a time."""
_FINGERPRINTS = paths.RESULTS / ".fingerprints.json"


def model_config(name: str, model: Model) -> dict[str, Any]:
    """The ``config.json`` of a model as it is, without its weights."""
    if isinstance(model, EmbeddedModel):
        return dict(spec_of(f"models.{name}", model.name, model.width).config)
    if isinstance(model, ConfigModel):
        return read_config(Path(model.path), f"models.{name}.path")
    where, file = f"models.{name}", gguf_of(name, model)
    if file is not None:
        beside = _beside(name, model, file)
        given = read_config(beside, where) if beside is not None else None
        return gguf_config(read_header(file), where, given)
    if isinstance(model, LocalModel):
        return read_config(_directory(name, model) / CONFIG, f"{where}.path")
    return read_config(hub_file(name, model, CONFIG), f"{where}.repository")


def gguf_of(name: str, model: LocalModel | HubModel) -> Path | None:
    """The GGUF file that holds a model, fetched if it is the hub's; ``None`` if none does."""
    if isinstance(model, LocalModel):
        return gguf_file(Path(model.path), f"models.{name}.path")
    return hub_file(name, model, model.file) if model.file is not None else None


def _beside(name: str, model: LocalModel | HubModel, file: Path) -> Path | None:
    """The ``config.json`` of the folder or repository of a GGUF file, if it is what params name."""
    if isinstance(model, HubModel):
        there = CONFIG in hub_names(name, model)
        return hub_file(name, model, CONFIG) if there else None
    beside = Path(model.path) / CONFIG
    return beside if beside.is_file() else None


def fetched_config(name: str, model: Model, dtype: str) -> dict[str, Any]:
    """The config of a model when it is fetched: what was quantised is then stored in ``dtype``."""
    config = model_config(name, model)
    if isinstance(model, ConfigModel) or quantisation(config, f"models.{name}") is None:
        return config
    return dequantised_config(config, dtype)


def model_source(name: str, model: Model) -> dict[str, Any]:
    """What identifies the content of a model: its settings, or the hash of its files.

    A model that may not be read is refused, before any of its weights is opened.
    """
    if isinstance(model, LocalModel):
        check_local(name, model)
        directory, files = local_files(name, model)
        return {"source": "local", "content": {f: _fingerprint(directory / f) for f in files}}
    if isinstance(model, HubModel):
        config = model_config(name, model)
        quantisation(config, f"models.{name}")
        check_code(name, config, {}, model.trust_remote_code)
        # what is off changes no key
        off = {each for each in ("trust_remote_code", "file") if not getattr(model, each)}
        return model.model_dump(exclude={"baseline_tasks", "transform", *off})
    if isinstance(model, ConfigModel):
        raise TensorpressError(
            f"models.{name}.source: 'config' has no weights; allowed: embedded, local, hub "
            "(tensorpress plan computes sizes from a config)"
        )
    # what a model lacks is no part of it, so that a new setting makes no other stale
    spec = spec_of(f"models.{name}", model.name, model.width)
    trained = {k: v for k, v in asdict(spec).items() if v is not None}
    # the width is in there, and a whole training says nothing of its end
    told = {"baseline_tasks", "transform", "width"} | (
        {"progress"} if model.progress == 1 else set()
    )
    return {**model.model_dump(exclude=told), "trained": trained}


def corpus_source(name: str, corpus: Corpus) -> dict[str, Any]:
    """What identifies the content of a corpus."""
    if isinstance(corpus, EmbeddedCorpus | DigitsCorpus) or corpus.path is None:
        return corpus.model_dump()
    where = f"corpora.{name}.path"
    content = file_content(corpus.path, where)
    if isinstance(corpus, FileCorpus):
        _remembered(Path(corpus.path), "text", lambda path: _check_text(path, where))
    # of a text that papers measure the file is the split
    part = {"split": corpus.split} if isinstance(corpus, FileCorpus) and corpus.split else {}
    return {"source": corpus.source, "content": content, **part}


def _check_text(path: Path, where: str) -> str:
    """Refuse a file that is not UTF-8 or in which nothing stands; nothing else is to be known."""
    blank = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            while block := file.read(_BLOCK):
                blank = blank and not block.strip()
    except UnicodeDecodeError as error:
        raise TensorpressError(f"{where}: {path} is not UTF-8") from error
    if blank:
        raise TensorpressError(f"{where}: {path} is empty; allowed: a file of text")
    return ""


def existing_file(path: str, where: str) -> Path:
    """A file that params name at ``where``; ``TensorpressError`` if it is missing."""
    if not Path(path).is_file():
        raise TensorpressError(f"{where}: {path!r} is not a file")
    return Path(path)


def file_content(path: str, where: str) -> str:
    """Content hash of a file that params name at ``where``."""
    return _fingerprint(existing_file(path, where))


def checkpoint_files(directory: Path, with_code: bool = False) -> list[str]:
    """Names of a checkpoint directory's files that matter, what is small before the weights.

    Config, what travels beside the weights, trusted code and what it may read; safetensors.
    """
    names = files_of(directory)
    small = [*companions(names, with_code), *matching(names, (CONFIG, *["*.py"] * with_code))]
    return [*small, *matching(names, ("*.safetensors", INDEX))]


def local_files(name: str, model: LocalModel) -> tuple[Path, list[str]]:
    """The folder of a local model, and the names of its files that matter, the weights last."""
    path, file = Path(model.path), gguf_of(name, model)
    if file is None:
        return path, checkpoint_files(path, model.trust_remote_code)
    beside = checkpoint_files(path) if path.is_dir() else []
    return file.parent, [*beside, file.name]


def check_local(name: str, model: LocalModel) -> None:
    """Refuse weights that cannot be read, code that params do not trust or that is not there, and a
    tokenizer that is not there or too large for the embedding; of images, what scales them.
    """
    where = f"models.{name}.path"
    if (file := gguf_of(name, model)) is not None:
        check_gguf(name, model, file)
        return
    directory = _directory(name, model)
    configs = [read_config(directory / "config.json", where), tokenizer_config(directory, where)]
    quantisation(configs[0], f"models.{name}")
    check_weights(directory, where)
    check_code(name, configs[0], configs[1], model.trust_remote_code)
    if model.trust_remote_code:
        missing = [f for f in code_files(where, *configs) if not (directory / f).is_file()]
        if missing:
            raise TensorpressError(
                f"{where}: {directory} lacks {', '.join(missing)}; "
                "allowed: a folder with the code that its configs name"
            )
        check_names((path.name for path in directory.glob("*.py")), where)
    if reads_images(configs[0]):
        Scaling.of(configs[0], image_settings(directory, where), where)
    elif not (model.trust_remote_code and own_tokenizer(configs[1])):
        rows = vocabulary_size(configs[0], where)
        check_tokenizer(directory, rows, f"{where}: {directory}", _largest_id)


def check_gguf(name: str, model: LocalModel | HubModel, file: Path) -> None:
    """The same of a GGUF file, which has its tokenizer in it."""
    where, config = f"models.{name}", model_config(name, model)
    check_code(name, config, {}, model.trust_remote_code)
    if model.trust_remote_code:
        raise TensorpressError(
            f"{where}.trust_remote_code: True is not allowed of GGUF files; allowed: false"
        )
    tokens = read_header(file).metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise TensorpressError(
            f"{where}: {file.name} has no tokenizer.ggml.tokens; allowed: a file with a tokenizer"
        )
    check_rows(tokens - 1, vocabulary_size(config, where), where)


def vocabulary_size(config: dict[str, Any], where: str) -> int:
    """Rows of the embedding by ``config.json``.

    ``TensorpressError`` if that is no whole number.
    """
    # of a model of several kinds of input the part that reads text
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    if not isinstance(rows, int):
        raise TensorpressError(
            f"{where}: config.json: vocab_size: {rows!r} is not allowed; allowed: rows of the "
            "embedding"
        )
    return rows


def _largest_id(file: Path, where: str) -> int:
    return int(_remembered(file, "largest_id", lambda path: str(largest_id(path, where))))


def tokenizer_config(directory: Path, where: str) -> dict[str, Any]:
    """The ``tokenizer_config.json`` of a folder, empty if there is none."""
    path = directory / TOKENIZER_CONFIG
    return read_config(path, where) if path.is_file() else {}


def image_settings(directory: Path, where: str) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of a folder, which a model of images must have."""
    return read_config(directory / PREPROCESSOR, where)


def _directory(name: str, model: LocalModel) -> Path:
    directory = Path(model.path)
    if not directory.is_dir():
        raise TensorpressError(
            f"models.{name}.path: {model.path!r} is not a directory; allowed: one with config.json "
            "and safetensors, or a GGUF file"
        )
    return directory


def read_config(path: Path, where: str) -> dict[str, Any]:
    """A ``config.json``; ``where`` begins every error.

    ``TensorpressError`` if it is missing or no JSON object.
    """
    if not path.is_file():
        raise TensorpressError(f"{where}: {path} is missing; allowed: a directory with {path.name}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TensorpressError(f"{where}: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise TensorpressError(f"{where}: {path} does not hold a JSON object")
    return config


def _fingerprint(path: Path) -> str:
    return _remembered(path, "sha256", file_fingerprint)


def _remembered(path: Path, what: str, find: Callable[[Path], str]) -> str:
    """What is found in a file, remembered by size and modification time: planning must stay fast.

    ``what`` tells apart what is remembered of one file.
    """
    stat = path.stat()
    entry = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{what}"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(_FINGERPRINTS.read_text())
    if entry not in known:
        known[entry] = find(path)
        # planning works without, also where nothing can be written
        with suppress(OSError, TensorpressError), replacing(_FINGERPRINTS) as temporary:
            temporary.write_text(json.dumps(known))
    return known[entry]
