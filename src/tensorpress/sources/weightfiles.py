"""Which files hold a model's weights: safetensors in the model's own folder, and no pickles.

One set of weights, whose index says what its shards hold. Torch-free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.sources.headers import Stored, tensors_in

UNKEYED = "it finds and refuses files, whose content is part of a key"

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""How pickled checkpoints are named on the hub."""
ADAPTER = "adapter_config.json"
_PICKLED = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def check_weights(directory: Path, where: str) -> None:
    """Refuse a folder whose weights are missing, pickles or another folder's, or are two sets.

    Of safetensors the headers are read, so that a file that was cut is a ``DamagedFile``; of other
    files nothing.
    """
    if (directory / ADAPTER).is_file():
        raise TensorpressError(
            f"{where}: {directory / ADAPTER} is not allowed; allowed: a model with its adapter "
            "merged into it (merge_and_unload of peft, then save_pretrained)"
        )
    if (directory / INDEX).is_file():
        files = indexed_shards(directory / INDEX, where)
        check_one_set(files, (directory / SINGLE).is_file(), where)
    elif not (directory / SINGLE).is_file():
        pickled = sorted({path.name for pattern in _PICKLED for path in directory.glob(pattern)})
        if pickled:
            raise pickles_refused(pickled, str(directory), directory.name, where)
    held_tensors(directory, where)


def has_weights(directory: Path) -> bool:
    """Whether a folder has weights that can be read, not only a config."""
    return (directory / INDEX).is_file() or (directory / SINGLE).is_file()


def held_tensors(directory: Path, where: str) -> dict[str, Stored]:
    """The tensors of a folder's one set of weights.

    ``TensorpressError`` if the folder has no weights in safetensors.
    """
    if (directory / INDEX).is_file():
        files = indexed_shards(directory / INDEX, where)
        return check_index(directory / INDEX, [directory / file for file in files], where)
    if (directory / SINGLE).is_file():
        return tensors_in(directory / SINGLE)
    raise TensorpressError(
        f"{where}: {directory} has neither {SINGLE} nor {INDEX}; allowed: a folder with weights "
        "in safetensors"
    )


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


def write_index(directory: Path, weight_map: Mapping[str, str], size: int) -> None:
    """The index of shards of ``size`` bytes together; transformers reads none without metadata."""
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def check_one_set(shards: Iterable[str], single: bool, where: str) -> None:
    """Refuse an index beside a ``single`` file that it does not name: readers differ in which."""
    if single and list(shards) != [SINGLE]:
        raise TensorpressError(
            f"{where}: {SINGLE} beside {INDEX} is not allowed: these are two sets of weights; "
            "allowed: one of them"
        )


def check_index(index: Path, shards: Iterable[Path], where: str) -> dict[str, Stored]:
    """The tensors of shards; ``TensorpressError`` if their index says that they hold others."""
    listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    held: dict[str, Stored] = {}
    for shard in shards:
        if not shard.is_file():
            raise DamagedFile(shard, f"missing, but listed in {INDEX}")
        for name, stored in tensors_in(shard).items():
            if listed.get(name) != shard.name:
                raise TensorpressError(
                    f"{where}: {INDEX} does not list {name}, which {shard.name} holds; "
                    "allowed: an index of all tensors of its shards"
                )
            held[name] = stored
    for name in listed.keys() - held.keys():
        raise TensorpressError(
            f"{where}: {INDEX} lists {name}, which {listed[name]} does not hold; "
            "allowed: an index of tensors that its shards hold"
        )
    return held


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
