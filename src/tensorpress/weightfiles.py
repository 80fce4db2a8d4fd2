"""Which files hold a model's weights: safetensors in the model's own folder, and no pickles.

Torch-free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorpress.errors import TensorpressError

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""How pickled checkpoints are named on the hub."""
ADAPTER = "adapter_config.json"
_PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def check_weights(directory: Path, where: str) -> None:
    """Refuse a folder whose weights are pickles or another folder's; none of them is opened."""
    if (directory / ADAPTER).is_file():
        raise TensorpressError(
            f"{where}: {directory / ADAPTER} is not allowed; allowed: a model with its adapter "
            "merged into it (merge_and_unload of peft, then save_pretrained)"
        )
    if (directory / INDEX).is_file():
        indexed_shards(directory / INDEX, where)
    elif not (directory / SINGLE).is_file():
        pickled = sorted({path.name for pattern in _PICKLED for path in directory.glob(pattern)})
        if pickled:
            raise pickles_refused(pickled, str(directory), directory.name, where)


def indexed_shards(index: Path, where: str) -> list[str]:
    """Files that an index names; a path that leads out of its folder is refused."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TensorpressError(
            f"{where}: {index} is not allowed; allowed: JSON with a weight_map"
        ) from error
    check_shards(shards, f"{where}: {index}")
    return shards


def check_shards(shards: Iterable[Any], where: str) -> None:
    """Refuse names of shards that are not those of safetensors files of the same folder."""
    for shard in shards:
        if not _SHARD.fullmatch(str(shard)):
            raise TensorpressError(
                f"{where}: {shard!r} is not allowed; allowed: names of .safetensors files beside it"
            )


def pickles_refused(pickled: Iterable[str], source: str, name: str, where: str) -> TensorpressError:
    """What to do about weights that only a pickle holds."""
    target = f"{name}-safetensors"
    command = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"[each.from_pretrained({source!r}).save_pretrained({target!r}) for each in (M, T)]"
    )
    return TensorpressError(
        f"{where}: {', '.join(pickled)} is not allowed: opening a pickle can run any code; "
        f"allowed: safetensors, which this writes into {target}, if you trust the file: "
        f'python -c "{command}"'
    )
