"""Fetch models and corpora into ``results/fetch``, verified before anything long starts."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tensorpress.atomic import replacing
from tensorpress.checkpoint import INDEX, SINGLE, Checkpoint
from tensorpress.embedded import corpus as embedded_corpus
from tensorpress.errors import TensorpressError
from tensorpress.families.table import family_of
from tensorpress.hub_datasets import column
from tensorpress.params import (
    C4Corpus,
    Corpus,
    EmbeddedCorpus,
    EmbeddedModel,
    FileCorpus,
    HubModel,
    LocalModel,
    Model,
    Wikitext2Corpus,
)
from tensorpress.sources import checkpoint_files, existing_file, hub_file
from tensorpress.texts import C4_SPLIT, c4_documents, c4_text, wikitext2_rows, wikitext2_text


def fetch_model(
    name: str, spec: Model, target: Path, device: torch.device, threads: int = 1
) -> None:
    """Train, copy or download a model into ``target`` and verify its checkpoint."""
    fetchers = {"embedded": _train, "local": _copy, "hub": _download}
    with replacing(target) as temporary:
        temporary.mkdir()
        fetchers[spec.source](name, spec, temporary, device, threads)
        _verify(name, temporary)


def fetch_corpus(name: str, spec: Corpus, target: Path) -> None:
    """Write the text of a corpus."""
    readers = {"embedded": _prose, "file": _file, "wikitext2": _wikitext2, "c4": _c4}
    text = readers[spec.source](name, spec)
    if not text.strip():
        raise TensorpressError(f"corpora.{name}: the text is empty")
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _prose(name: str, spec: Corpus) -> str:
    assert isinstance(spec, EmbeddedCorpus)
    return "\n\n".join(embedded_corpus.documents(spec.split))


def _file(name: str, spec: Corpus) -> str:
    assert isinstance(spec, FileCorpus)
    with _readable(name, spec.path) as path:
        return path.read_text(encoding="utf-8")


def _wikitext2(name: str, spec: Corpus) -> str:
    assert isinstance(spec, Wikitext2Corpus)
    if spec.path is None:
        return wikitext2_text(column(spec.dataset, spec.split, "text", f"corpora.{name}"))
    with _readable(name, spec.path) as path:
        return wikitext2_text(wikitext2_rows(path))


def _c4(name: str, spec: Corpus) -> str:
    assert isinstance(spec, C4Corpus)
    if spec.path is None:
        return c4_text(column(spec.dataset, C4_SPLIT, "text", f"corpora.{name}"))
    with _readable(name, spec.path) as path:
        return c4_text(c4_documents(path))


@contextmanager
def _readable(name: str, path: str) -> Iterator[Path]:
    try:
        yield existing_file(path, f"corpora.{name}.path")
    except UnicodeDecodeError as error:
        raise TensorpressError(f"corpora.{name}.path: {path} is not UTF-8") from error
    except (ValueError, TypeError, KeyError, gzip.BadGzipFile) as error:
        raise TensorpressError(
            f'corpora.{name}.path: {path} is not allowed; allowed: JSON lines with a "text"'
        ) from error


def _train(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    from tensorpress.embedded.training import train

    assert isinstance(spec, EmbeddedModel)
    model, tokenizer, record = train(spec.name, spec.seed, device, threads)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "training.json").write_text(json.dumps(record, default=vars, indent=1))


def _copy(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, LocalModel)
    # a copy, not a link: DVC makes what it tracks read-only, and the original is the user's
    for path in checkpoint_files(Path(spec.path)):
        shutil.copyfile(path, target / path.name)


def _download(name: str, spec: Model, target: Path, device: torch.device, threads: int) -> None:
    assert isinstance(spec, HubModel)
    wanted = ["config.json", "tokenizer_config.json"]
    optional = ["tokenizer.json", "tokenizer.model", "generation_config.json", INDEX]
    for filename in wanted:
        shutil.copyfile(hub_file(name, spec, filename), target / filename)
    for filename in optional:
        try:
            shutil.copyfile(hub_file(name, spec, filename), target / filename)
        except TensorpressError:
            continue
    shards = [SINGLE]
    if (target / INDEX).is_file():
        index = json.loads((target / INDEX).read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
    for shard in shards:
        shutil.copyfile(hub_file(name, spec, shard), target / shard)


def _verify(name: str, directory: Path) -> None:
    """Every weight of every layer is there, with the config's shape, and finite."""
    checkpoint = Checkpoint.open(directory)
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
