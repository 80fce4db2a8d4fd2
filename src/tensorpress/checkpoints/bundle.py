"""What stands beside the tensors of a checkpoint: config, bundled code, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tensorpress import formats
from tensorpress.architectures.architecture import COMPRESSED, COMPRESSED_CLASS
from tensorpress.architectures.families.table import plain_architecture
from tensorpress.architectures.shortcuts import SLICED
from tensorpress.formats import shortcuts
from tensorpress.formats.base import STORES
from tensorpress.sources.companions import companions, copy_files, files_of
from tensorpress.sources.custom_code import REFERENCES, SEAL, seal, sealed_files
from tensorpress.sources.custom_code import architecture as named_class

REMOTE_CODE = "modeling_tensorpress"
SLICED_CODE = "modeling_sliced"


def write_config(
    config: dict[str, Any], plan: dict[str, Any] | None, dtype: str, target: Path
) -> None:
    """Write ``config.json``; with a ``plan`` (``formats.model.install``) also the code it needs.

    A compressed checkpoint has a ``model_type`` of its own, so that nothing loads it as a plain
    model with missing weights.
    """
    config = {**config, "dtype": dtype}
    config.pop("torch_dtype", None)
    if plan is not None:
        base = plan["base_class"]
        architecture = plain_architecture(config, "config.json")
        config["model_type"] = COMPRESSED + architecture.family.model_type
        config["architectures"] = [f"{COMPRESSED_CLASS}{base.rpartition('.')[2]}"]
        config[STORES] = plan
        if plan["embeddings"]:
            config["tie_word_embeddings"] = False  # the head, if tied, is a linear of the plan
        config[REFERENCES] = {
            "AutoConfig": f"{REMOTE_CODE}.Config",
            architecture.objective.auto_class: f"{REMOTE_CODE}.Model",
        }
        _bundle_code(target, base)
    (target / "config.json").write_text(json.dumps(config, indent=1))


def _bundle_code(target: Path, base: str) -> None:
    """Copy the format modules, which need only torch and transformers, into the checkpoint.

    ``base``: a class of transformers, or ``file.Class`` of the model's own code.
    """
    folder = Path(formats.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            shutil.copyfile(path, target / path.name)
    file, _, name = base.rpartition(".")
    code = (
        f"from {f'.{file}' if file else 'transformers'} import {name}\n\n"
        "from .model import factored_class\n\n"
        f"Model = factored_class({name})\nConfig = Model.config_class\n"
    )
    (target / f"{REMOTE_CODE}.py").write_text(code)


def write_sliced_class(config: dict[str, Any], target: Path) -> dict[str, Any]:
    """Write the class of a model with shortcuts (``architectures.shortcuts``); the whole config.

    It is sealed, so that it may run; what is compressed of the model carries it. The ``model_type``
    is none of transformers', which would leave the shortcuts out.
    """
    architecture = plain_architecture(config, "config.json")
    base = named_class(config, "config.json")
    name = f"Sliced{base}"
    shutil.copyfile(Path(shortcuts.__file__), target / Path(shortcuts.__file__).name)
    code = (
        f"from transformers import {base}\n\n"
        "from .shortcuts import sliced_class\n\n"
        f"{name} = sliced_class({base})\nConfig = {name}.config_class\n"
    )
    (target / f"{SLICED_CODE}.py").write_text(code)
    seal(target)
    return {
        **config,
        "model_type": SLICED + architecture.family.model_type,
        "architectures": [name],
        REFERENCES: {
            "AutoConfig": f"{SLICED_CODE}.Config",
            architecture.objective.auto_class: f"{SLICED_CODE}.{name}",
        },
    }


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what travels beside the weights: tokenizer, chat templates, generation settings, …

    That includes code which the params trust, and what it reads.
    """
    code = sealed_files(source)
    copy_files(companions(files_of(source), bool(code)), source, target)
    copy_files([*code, *[SEAL] * bool(code)], source, target)
