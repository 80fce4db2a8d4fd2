"""Where models and corpora come from, as far as planning needs it: configs and fingerprints.

Torch-free.
"""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from tensorpress.embedded.specs import EMBEDDED
from tensorpress.errors import TensorpressError
from tensorpress.keys import file_fingerprint
from tensorpress.params import (
    ConfigModel,
    Corpus,
    EmbeddedCorpus,
    EmbeddedModel,
    HubModel,
    LocalModel,
    Model,
)

_WORDS = re.compile(r"[^\W\d_]{2,}")
BOILERPLATE = 0.01
"""Share of lines that texts may have in common by chance."""
_FINGERPRINTS = Path("results/.fingerprints.json")


def model_config(name: str, model: Model) -> dict[str, Any]:
    """The ``config.json`` of a model, without its weights."""
    if isinstance(model, EmbeddedModel):
        return dict(EMBEDDED[model.name].config)
    if isinstance(model, ConfigModel):
        return read_config(Path(model.path), f"models.{name}.path")
    if isinstance(model, LocalModel):
        return read_config(_directory(name, model) / "config.json", f"models.{name}.path")
    return read_config(hub_file(name, model, "config.json"), f"models.{name}.repository")


def model_source(name: str, model: Model) -> dict[str, Any]:
    """What identifies the content of a model: its settings, or the hash of its files."""
    if isinstance(model, LocalModel):
        files = checkpoint_files(_directory(name, model))
        return {"source": "local", "content": {f.name: _fingerprint(f) for f in files}}
    if isinstance(model, ConfigModel):
        raise TensorpressError(
            f"models.{name}.source: 'config' has no weights; allowed: embedded, local, hub "
            "(tensorpress plan computes sizes from a config)"
        )
    return model.model_dump(exclude={"baseline_tasks"})


def corpus_source(name: str, corpus: Corpus) -> dict[str, Any]:
    """What identifies the content of a corpus."""
    if isinstance(corpus, EmbeddedCorpus) or corpus.path is None:
        return corpus.model_dump()
    content = file_content(corpus.path, f"corpora.{name}.path")
    return {"source": corpus.source, "content": content}


def existing_file(path: str, where: str) -> Path:
    """A file that params name at ``where``; ``TensorpressError`` if it is missing."""
    if not Path(path).is_file():
        raise TensorpressError(f"{where}: {path!r} is not a file")
    return Path(path)


def file_content(path: str, where: str) -> str:
    """Content hash of a file that params name at ``where``."""
    return _fingerprint(existing_file(path, where))


def shared_text(evaluated: Corpus, trained: Corpus) -> str | None:
    """A line of the one local file that stands in the other too; ``None`` if hardly any does."""
    files = [getattr(corpus, "path", None) for corpus in (evaluated, trained)]
    if None in files:
        return None
    paths = [Path(str(path)) for path in files]
    lines, others = (_long_lines(path, path.stat().st_mtime_ns) for path in paths)
    shared = lines & others
    return min(shared) if len(shared) > BOILERPLATE * len(lines) else None


@lru_cache(maxsize=8)
def _long_lines(path: Path, modified: int) -> frozenset[str]:
    """Lines of ten words or more; ``modified`` only tells versions of the file apart."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return frozenset(line for line in text.splitlines() if len(_WORDS.findall(line)) >= 10)


def checkpoint_files(directory: Path) -> list[Path]:
    """Files of a checkpoint directory that matter: config, safetensors, tokenizer."""
    patterns = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja")
    return sorted({path for pattern in patterns for path in directory.glob(pattern)})


def hub_file(name: str, model: HubModel, filename: str) -> Path:
    """One file of a repository at its pinned revision, from the cache or the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    at = f"models.{name}: {model.repository}@{model.revision[:8]}"
    try:
        return Path(hf_hub_download(model.repository, filename, revision=model.revision))
    except LocalEntryNotFoundError as error:
        raise TensorpressError(
            f"{at}: the hub cannot be reached and {filename} is not in the cache; connect once, "
            f"or download the model and use source: local with its path"
        ) from error
    except HfHubHTTPError as error:
        raise TensorpressError(
            f"{at}: the hub refuses {filename}; check repository and revision, "
            f"and run 'hf auth login' for gated models ({' '.join(str(error).split())[:200]})"
        ) from error
    except OSError as error:
        raise TensorpressError(
            f"{at}: {filename} cannot be fetched ({error}); "
            f"connect once, or download the model and use source: local with its path"
        ) from error


def _directory(name: str, model: LocalModel) -> Path:
    directory = Path(model.path)
    if not directory.is_dir():
        raise TensorpressError(f"models.{name}.path: {model.path!r} is not a directory")
    return directory


def read_config(path: Path, where: str) -> dict[str, Any]:
    """A ``config.json``; ``where`` begins every error."""
    if not path.is_file():
        raise TensorpressError(f"{where}: {path} is missing; allowed: a directory with config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TensorpressError(f"{where}: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise TensorpressError(f"{where}: {path} does not hold a JSON object")
    return config


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file, remembered by size and modification time: planning must stay fast."""
    stat = path.stat()
    entry = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    known = json.loads(_FINGERPRINTS.read_text()) if _FINGERPRINTS.is_file() else {}
    if entry not in known:
        known[entry] = file_fingerprint(path)
        _FINGERPRINTS.parent.mkdir(parents=True, exist_ok=True)
        temporary = _FINGERPRINTS.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known))
        os.replace(temporary, _FINGERPRINTS)
    return known[entry]
