"""``plan.json`` of a compressed checkpoint: what was done to each module, and how well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.checkpoints.rows import DecompositionRow, read_rows
from tensorpress.files.storage import VALUE_BITS
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.layout import inner_descriptions

MANIFEST = "plan.json"


@dataclass(frozen=True)
class StoredSet:
    """One factor set as a checkpoint holds it."""

    layer: int
    made_by: MethodSpec
    rows: Path
    """What was measured of the factors before they were rounded."""
    modules: tuple[str, ...]
    """All that share the factors, those that are not placed too."""
    format: str
    settings: Mapping[str, Any]
    bits: int
    rounding_errors: Mapping[str, float]
    """Placed module -> how far rounding moves its rebuilt matrices, relative to their norm."""


def write_manifest(sets: Sequence[StoredSet], dtype: str, target: Path) -> None:
    """Write ``plan.json`` into ``target``: method, settings, ranks, error and bits per module.

    ``stack`` lists the modules that share factors; ``stack_bits`` are the bits of all of them.
    ``relative_error`` is that of the factors before the recipe's rounding, ``rounding_error`` how
    far rounding them moves the rebuilt matrix, relative to its norm. ``calibration_tokens``: over
    which the moments were taken that the method read, if it read any.
    """
    rows = {
        path: {row.module: row for row in read_rows([path], DecompositionRow)}
        for path in dict.fromkeys(each.rows for each in sets)
    }
    modules = [entry for each in sets for entry in _entries(each, rows[each.rows], dtype)]
    text = json.dumps({"dtype": dtype, "modules": modules}, indent=1)
    (target / MANIFEST).write_text(text, encoding="utf-8")


def _entries(
    each: StoredSet, rows: Mapping[str, DecompositionRow], dtype: str
) -> Iterator[dict[str, Any]]:
    """Of the placed modules of one factor set."""
    spec = each.made_by
    for module, error in each.rounding_errors.items():
        yield {
            "layer": each.layer,
            "module": module,
            "method": spec.method,
            "settings": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
            "format": each.format,
            "ranks": ranks_of(each.settings),
            "calibration_tokens": rows[module].calibration_tokens,
            "relative_error": rows[module].relative_error,
            "rounding_error": error,
            "stack": list(each.modules),
            "stack_bits": each.bits,
            "dense_bits": VALUE_BITS[dtype] * rows[module].dense_values,
        }


def ranks_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ranks among a format's settings, also those of formats inside of it."""
    found = {name: value for name, value in settings.items() if "rank" in name}
    for inner in inner_descriptions(settings):
        found |= ranks_of(inner["settings"])
    return found
