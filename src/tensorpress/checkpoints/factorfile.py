"""Factor files: the factors of one layer and group in safetensors, with their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tensorpress.checkpoints.tensorfile import open_tensors, save_tensors
from tensorpress.files.atomic import replacing
from tensorpress.formats.base import Format
from tensorpress.formats.build import build
from tensorpress.methods.factors import Factors

SPECTRA = "spectra"
TURNS = "turns"


@dataclass(frozen=True)
class StoredFactors:
    """Factors read back, as ``Factors`` has them."""

    modules: tuple[str, ...]
    store: Format
    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    turns: Mapping[str, Tensor] = field(default_factory=dict)


def store_name(modules: Sequence[str]) -> str:
    """Name of a factor set inside files and models: ``attention_q-attention_o``."""
    return "-".join(module.replace(".", "_") for module in modules)


def save_factors(factors: Sequence[Factors], path: Path) -> None:
    """Write factor sets; the header's ``stores`` is what ``load_factors`` rebuilds them from."""
    tensors: dict[str, Tensor] = {}
    stores = []
    for each in factors:
        name = store_name(each.modules)
        stores.append({**each.store.description, "modules": each.modules})
        for factor, value in each.store.state_dict().items():
            tensors[f"{name}.{factor}"] = value.cpu().contiguous()
        for module, turn in each.turns.items():
            tensors[f"{TURNS}.{module}"] = turn.cpu().contiguous()
        for rank, squares in each.spectra.items():
            tensors[f"{SPECTRA}.{name}.{rank}"] = squares.cpu().contiguous()
    with replacing(path) as temporary:
        save_tensors(tensors, {"stores": json.dumps(stores)}, temporary)


def factor_sets(path: Path) -> list[tuple[str, ...]]:
    """The modules of each factor set of a file; no factor is read."""
    with open_tensors(path) as file:
        return [tuple(entry["modules"]) for entry in json.loads(file.metadata["stores"])]


def load_factors(path: Path, modules: Sequence[str] | None = None) -> list[StoredFactors]:
    """Factor sets of ``path``; with ``modules``, only those that hold one of these.

    What is read is checked: ``DamagedFile`` if it is not what ``save_factors`` wrote.
    """
    loaded = []
    with open_tensors(path) as file:
        for entry in json.loads(file.metadata["stores"]):
            if modules is not None and not set(entry["modules"]) & set(modules):
                continue
            store = build(entry["format"], entry["settings"])
            name = store_name(entry["modules"])
            values = {f: file.read(f"{name}.{f}") for f in store.state_dict()}
            store.load_state_dict(values, assign=True)
            prefix = f"{SPECTRA}.{name}."
            spectra = {
                key.removeprefix(prefix): file.read(key)
                for key in file.names
                if key.startswith(prefix)
            }
            known = {module: f"{TURNS}.{module}" for module in entry["modules"]}
            turns = {m: file.read(key) for m, key in known.items() if key in file.names}
            loaded.append(StoredFactors(tuple(entry["modules"]), store, spectra, turns))
    return loaded
