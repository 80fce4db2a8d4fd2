"""``plan.json`` of a compressed checkpoint: what was done to each module, and how well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.factorfile import load_factors
from tensorpress.formats.base import Format
from tensorpress.rows import DecompositionRow, read_rows
from tensorpress.storage import VALUE_BITS, StoredTensor, bits

MANIFEST = "plan.json"


@dataclass(frozen=True)
class Provenance:
    """Where the factors of some modules of a layer come from."""

    layer: int
    modules: tuple[str, ...]
    method: str
    settings: Mapping[str, Any]
    factors: Path
    rows: Path


def write_manifest(placed: Sequence[Provenance], dtype: str, target: Path) -> None:
    """Write ``plan.json`` into ``target``: method, settings, ranks, error and bits per module.

    ``stack`` lists the modules that share factors; ``stack_bits`` are the bits of all of them.
    """
    modules = [entry for each in placed for entry in _entries(each, VALUE_BITS[dtype])]
    text = json.dumps({"dtype": dtype, "modules": modules}, indent=1)
    (target / MANIFEST).write_text(text, encoding="utf-8")


def _entries(placed: Provenance, value_bits: int) -> list[dict[str, Any]]:
    rows = {row.module: row for row in read_rows([placed.rows], DecompositionRow)}
    return [
        {
            "layer": placed.layer,
            "module": module,
            "method": placed.method,
            "settings": dict(placed.settings),
            "format": stored.store.name,
            "ranks": _ranks(stored.store.settings),
            "relative_error": rows[module].relative_error,
            "stack": list(stored.modules),
            "stack_bits": _bits(stored.store, value_bits),
            "dense_bits": value_bits * rows[module].dense_values,
        }
        for stored in load_factors(placed.factors, placed.modules)
        for module in stored.modules
        if module in placed.modules
    ]


def _ranks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ranks among a format's settings, also those of the format inside of another."""
    found = {name: value for name, value in settings.items() if "rank" in name}
    return found | _ranks(settings["settings"]) if "settings" in settings else found


def _bits(store: Format, value_bits: int) -> int:
    return bits(
        (
            StoredTensor(tuple(value.shape), None, bits=None if value.is_floating_point() else 8)
            for value in store.state_dict().values()
        ),
        value_bits,
    )
