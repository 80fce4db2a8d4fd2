"""A healed checkpoint: the compressed one with trained values in the place of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorpress.checkpoints.bundle import copy_tokenizer, write_config
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.rows import StorageRow
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.checkpoints.storage_range import rounded_as
from tensorpress.config.recovery import Factors
from tensorpress.files.storage import VALUE_BITS, BitsSaved, StoredTensor, bits, stored_tensors
from tensorpress.formats.base import STORES, Format
from tensorpress.formats.build import build
from tensorpress.formats.modules import store_names


def write_healed(
    source: Path,
    trained: Mapping[str, Tensor],
    spec: Factors,
    dtype: str,
    compressed: StorageRow,
    target: Path,
) -> StorageRow:
    """Write the checkpoint of ``source`` with its trained tensors into the new folder ``target``.

    ``trained``: what ``healing.heal`` returns. Without rounding the bits are those of ``source``,
    whose row is ``compressed``; with it the trained factors become codes and scales.
    """
    target.mkdir(parents=True)
    checkpoint = Checkpoint.open(source)
    config, family = copy.deepcopy(checkpoint.config), checkpoint.architecture.family
    plan: dict[str, Any] = config[STORES]
    writer = ShardWriter(target, getattr(torch, dtype))
    saved, gone = compressed.saved, set[str]()
    for prefix, described in _stores(plan):
        names = [name for name in checkpoint.files if name.startswith(f"{prefix}.")]
        if spec.rounding is None or not trained.keys() & set(names):
            continue
        values = {name: trained.get(name, checkpoint.read([name])[name]) for name in names}
        store = build(described["format"], described["settings"])
        store.fill(**{name.removeprefix(f"{prefix}."): value for name, value in values.items()})
        rounded = rounded_as(prefix, store, spec.rounding, writer.dtype)
        described.update(rounded.description)
        layer = family.layer_of(prefix)
        writer.add_store(prefix, rounded, layer, replaced=True)
        saved = _with(saved, store, rounded, layer, VALUE_BITS[dtype])
        gone |= set(names)
    for name in sorted(checkpoint.files):
        if name not in gone:
            tensor = trained.get(name, checkpoint.read([name])[name])
            # counted by the row of the source
            writer.add(name, tensor, StoredTensor(tuple(tensor.shape), None))
    checkpoint_bytes = writer.close()
    write_config(config, plan, dtype, target)
    copy_tokenizer(source, target)
    return StorageRow.of(saved, checkpoint_bytes, compressed.origin)


def _stores(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where in the checkpoint each store stands, and its description, which may be changed."""
    for entry in plan["stores"]:
        yield f"{entry['owner']}.{STORES}.{entry['name']}".removeprefix("."), entry
    for entry in plan["experts"]:
        for name in store_names(entry):
            yield f"{entry['path']}.{name}", entry[name]


def _with(
    saved: BitsSaved, store: Format, rounded: Format, layer: int | None, value_bits: int
) -> BitsSaved:
    """What is saved with ``rounded`` in the place of ``store``."""
    before, after = (
        bits(stored_tensors(each, layer, replaced=True).values(), value_bits)
        for each in (store, rounded)
    )
    more = after - before
    return saved.plus(
        more, more if layer is not None else 0, more, 0 if layer is not None else more
    )
