"""Python code that comes with a model: whether it is needed, and whether params let it run.

Torch-free but for ``is_native``, which only models with code of their own need. A fetched folder
holds code, and references to it, only if the params trust it; ``SEAL`` lists that code with its
hashes, and nothing else is ever run (``loading``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorpress.architectures.families.table import plain_architecture
from tensorpress.errors import TensorpressError
from tensorpress.keying.fingerprints import all_modules
from tensorpress.keying.keys import file_fingerprint
from tensorpress.objectives.base import Objective

UNKEYED = "it finds and refuses files, whose content is part of a key"

SEAL = "trusted_code.json"
REFERENCES = "auto_map"
_REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
_KERNELS = ("attn_implementation", "_attn_implementation")
"""Config keys whose values, with a slash, name code on the hub that transformers would run."""


def code_files(where: str, *configs: Mapping[str, Any]) -> list[str]:
    """Files that ``config.json`` and ``tokenizer_config.json`` take classes from.

    Code of another repository, pinned by nothing, is refused.
    """
    names = set()
    for reference in _references(configs):
        if not _REFERENCE.fullmatch(reference):
            raise TensorpressError(
                f"{where}: {REFERENCES} names {reference!r}; allowed: file.Class, beside the config"
            )
        names.add(f"{reference.partition('.')[0]}.py")
    return sorted(names)


def check_code(
    name: str, config: Mapping[str, Any], tokenizer: Mapping[str, Any], trusted: bool
) -> None:
    """Refuse a model of ``models.<name>`` that cannot be loaded without running its own code.

    Where transformers has the classes, untrusted code is merely left out.
    """
    where = f"models.{name}"
    architecture(config, where)
    if trusted or not _references([config, tokenizer]):
        return
    missing = [c for c in (_missing_model(config), _missing_tokenizer(tokenizer)) if c]
    if missing:
        raise TensorpressError(
            f"{where}.trust_remote_code: False is not allowed: transformers has no "
            f"{' and no '.join(missing)}; allowed: true, after reading the code in "
            f"{', '.join(code_files(where, config, tokenizer))}"
        )


def own_tokenizer(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a ``tokenizer_config.json`` names code: its files may have any name."""
    return bool(_references([tokenizer]))


def architecture(config: Mapping[str, Any], where: str) -> str:
    """The class that ``config.json`` names; it is written into code, so it must be a plain name.

    ``TensorpressError`` if it is not.
    """
    named = config.get("architectures")
    if not (isinstance(named, list) and named and str(named[0]).isidentifier()):
        raise TensorpressError(
            f"{where}: config.json: architectures: {named!r} is not allowed; "
            "allowed: a list with the name of a class"
        )
    return str(named[0])


def base_class(config: Mapping[str, Any]) -> str:
    """What a fetched model runs as: a class of transformers, or ``file.Class`` of its own code."""
    own = config.get(REFERENCES, {}).get(_objective(config).auto_class)
    return str(own) if own else architecture(config, "assemble")


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether transformers has the class that a ``config.json`` names for its model type."""
    from transformers.models.auto import modeling_auto

    classes = getattr(modeling_auto, _objective(config).known_classes)
    known = classes.get(str(config.get("model_type")), ())
    return architecture(config, "config.json") in ((known,) if isinstance(known, str) else known)


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that names no code outside of transformers."""
    return {
        key: value
        for key, value in config.items()
        if key != REFERENCES and not (key in _KERNELS and "/" in str(value))
    }


def check_names(files: Iterable[str], where: str) -> None:
    """Refuse code whose files have the names of those that a compressed checkpoint brings."""
    own = {f"{module.rpartition('.')[2]}.py" for module in all_modules("tensorpress.formats")}
    taken = sorted(own.intersection(files))
    if taken:
        raise TensorpressError(
            f"{where}: code in {', '.join(taken)} is not allowed: compressed checkpoints hold "
            "files of these names; allowed: other names"
        )


def seal(folder: Path) -> None:
    """List the code of a fetched folder, which the params trust."""
    listed = {path.name: file_fingerprint(path) for path in sorted(folder.glob("*.py"))}
    if listed:
        (folder / SEAL).write_text(json.dumps(listed, indent=1), encoding="utf-8")


def sealed_files(folder: Path) -> list[str]:
    """Code in a folder that may run, none without a seal; changed since: ``TensorpressError``."""
    if not (folder / SEAL).is_file():
        return []
    listed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    for name, fingerprint in listed.items():
        if not (folder / name).is_file() or file_fingerprint(folder / name) != fingerprint:
            raise TensorpressError(
                f"{folder}: {name} is not the code that was fetched; allowed: what {SEAL} lists"
            )
    return list(listed)


def _references(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for config in configs:
        classes = config.get(REFERENCES) or {}
        # old tokenizers list classes without a name
        for value in classes.values() if isinstance(classes, Mapping) else [classes]:
            listed = value if isinstance(value, list | tuple) else [value]
            found += [str(reference) for reference in listed if reference]
    return found


def _objective(config: Mapping[str, Any]) -> Objective:
    return plain_architecture(config, "config.json").objective


def _missing_model(config: Mapping[str, Any]) -> str | None:
    if not config.get(REFERENCES) or is_native(config):
        return None
    return f"class {architecture(config, 'config.json')}"


def _missing_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    if not tokenizer.get(REFERENCES):
        return None
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    named = str(tokenizer.get("tokenizer_class"))
    known = (tokenizer_class_from_name(each) for each in (named, f"{named}Fast"))
    return None if any(known) else f"tokenizer class {named}"
