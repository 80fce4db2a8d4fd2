"""Where models and corpora come from, as far as planning needs it: configs and fingerprints.

Torch-free.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorpress.atomic import replacing
from tensorpress.custom_code import SEAL, check_code, check_names, code_files
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
from tensorpress.secrets import one_line
from tensorpress.weightfiles import check_weights

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
    """What identifies the content of a model: its settings, or the hash of its files.

    A model that may not be read is refused, before any of its weights is opened.
    """
    if isinstance(model, LocalModel):
        check_local(name, model)
        files = checkpoint_files(Path(model.path), model.trust_remote_code)
        return {"source": "local", "content": {f.name: _fingerprint(f) for f in files}}
    if isinstance(model, HubModel):
        check_code(name, model_config(name, model), {}, model.trust_remote_code)
        # what is off changes no key
        off = set() if model.trust_remote_code else {"trust_remote_code"}
        return model.model_dump(exclude={"baseline_tasks", *off})
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


def checkpoint_files(directory: Path, with_code: bool = False) -> list[Path]:
    """Files of a checkpoint directory that matter: config, safetensors, tokenizer, trusted code."""
    patterns = ["*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]
    patterns += ["*.py"] * with_code
    found = {path for pattern in patterns for path in directory.glob(pattern)}
    return sorted(path for path in found if path.name != SEAL)


def check_local(name: str, model: LocalModel) -> None:
    """Refuse weights in pickles, and code that params do not trust or that is not there."""
    directory, where = _directory(name, model), f"models.{name}.path"
    check_weights(directory, where)
    configs = [read_config(directory / "config.json", where), tokenizer_config(directory, where)]
    check_code(name, configs[0], configs[1], model.trust_remote_code)
    if model.trust_remote_code:
        missing = [f for f in code_files(where, *configs) if not (directory / f).is_file()]
        if missing:
            raise TensorpressError(
                f"{where}: {directory} lacks {', '.join(missing)}; "
                "allowed: a folder with the code that its configs name"
            )
        check_names((path.name for path in directory.glob("*.py")), where)


def tokenizer_config(directory: Path, where: str) -> dict[str, Any]:
    """The ``tokenizer_config.json`` of a folder, empty if there is none."""
    path = directory / "tokenizer_config.json"
    return read_config(path, where) if path.is_file() else {}


def hub_file(name: str, model: HubModel, filename: str) -> Path:
    """One file of a repository at its pinned revision, from the cache or the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

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
            f"and run 'hf auth login' for gated models ({one_line(error)[:200]})"
        ) from error
    except (OSError, HTTPError) as error:
        raise TensorpressError(
            f"{at}: {filename} cannot be fetched ({one_line(error)[:200]}); "
            f"connect once, or download the model and use source: local with its path"
        ) from error


def hub_has(model: HubModel, filename: str) -> bool:
    """Whether a repository is known to have a file, which is not fetched."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    at = {"repo_id": model.repository, "filename": filename, "revision": model.revision}
    if isinstance(try_to_load_from_cache(**at), str):
        return True
    try:
        return bool(file_exists(**at))
    except (OSError, HTTPError):
        return False


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
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(_FINGERPRINTS.read_text())
    if entry not in known:
        known[entry] = file_fingerprint(path)
        # planning works without, also where nothing can be written
        with suppress(OSError, TensorpressError), replacing(_FINGERPRINTS) as temporary:
            temporary.write_text(json.dumps(known))
    return known[entry]
