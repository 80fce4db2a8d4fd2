"""Bits of tensors: the only place that counts them. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from tensorpress.formats.base import Format

SHARD_BYTES = 512 * 2**20
"""A shard that is being written is held in memory, and one more tensor; larger ones load no faster.
"""

Dtype = Literal["float32", "float16", "bfloat16"]
"""In which weights and factors are stored."""
VALUE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}

ComputeDtype = Literal["float32", "float16", "bfloat16", "auto"]
"""In which models run; ``auto``: what the device of a job does fast (``precision.py``)."""
RUNNING_BITS = {**VALUE_BITS, "auto": 32}
"""Of a value while a model runs, at most."""


def dtype_name(dtype: torch.dtype) -> str:
    """As params name it: ``bfloat16`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, as far as counting goes.

    ``layer`` is ``None`` outside the transformer layers; ``replaced`` marks weights that a
    method replaces (dense side) and the factors that replace them (stored side). ``bits`` is
    given where a value does not take the bits of the storage dtype: packed codes, coordinates.
    """

    shape: tuple[int, ...]
    layer: int | None
    embedding: bool = False
    replaced: bool = False
    bits: int | None = None

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def stored_tensors(store: Format, layer: int | None, *, replaced: bool) -> dict[str, StoredTensor]:
    """Every tensor of a factor set by name; packed numbers count their own bits, unpadded."""
    packed = store.packed()
    found = {}
    for name, value in store.state_dict().items():
        shape, width = tuple(value.shape), None
        if name in packed:
            count, width = packed[name]
            shape = (count,)
        elif not value.is_floating_point():
            width = 8 * value.element_size()
        found[name] = StoredTensor(shape, layer, layer is None, replaced, width)
    return found


@dataclass(frozen=True)
class BitsSaved:
    """Bits before and after compression, over four denominators.

    ``modules``: the replaced modules; ``blocks``: all of the layers that hold one; the model
    without its input embedding; the model.
    """

    dense_bits: int
    stored_bits: int
    modules_dense_bits: int
    modules_stored_bits: int
    blocks_dense_bits: int
    blocks_stored_bits: int
    without_embeddings_dense_bits: int
    without_embeddings_stored_bits: int

    @property
    def modules_percent(self) -> float:
        """``100 (1 - stored / dense)`` of the replaced modules."""
        return _percent(self.modules_dense_bits, self.modules_stored_bits)

    @property
    def blocks_percent(self) -> float:
        """The same of the layers that hold one."""
        return _percent(self.blocks_dense_bits, self.blocks_stored_bits)

    @property
    def without_embeddings_percent(self) -> float:
        """The same of the model without its input embedding."""
        return _percent(self.without_embeddings_dense_bits, self.without_embeddings_stored_bits)

    @property
    def with_embeddings_percent(self) -> float:
        """The same of the model."""
        return _percent(self.dense_bits, self.stored_bits)

    def plus(self, modules: int, blocks: int, model: int, embedding: int = 0) -> BitsSaved:
        """With so many more bits stored in replaced modules, in their layers and in the model.

        ``embedding``: those of the model's that are of its embedding.
        """
        return replace(
            self,
            stored_bits=self.stored_bits + model,
            modules_stored_bits=self.modules_stored_bits + modules,
            blocks_stored_bits=self.blocks_stored_bits + blocks,
            without_embeddings_stored_bits=self.without_embeddings_stored_bits + model - embedding,
        )


def _percent(dense: int, stored: int) -> float:
    return 100.0 * (1.0 - stored / dense) if dense else 0.0


def bits(tensors: Iterable[StoredTensor], value_bits: int) -> int:
    """Bits of tensors whose values take ``value_bits`` each, unless they say otherwise."""
    return sum(tensor.numel * (tensor.bits or value_bits) for tensor in tensors)


def bits_saved(dense: list[StoredTensor], stored: list[StoredTensor], value_bits: int) -> BitsSaved:
    """Compare a model before and after; tied weights must be listed once on both sides."""
    layers = {t.layer for t in dense if t.replaced}

    def both(counts: Callable[[StoredTensor], bool]) -> tuple[int, int]:
        return bits(filter(counts, dense), value_bits), bits(filter(counts, stored), value_bits)

    return BitsSaved(
        *both(lambda t: True),
        *both(lambda t: t.replaced),
        *both(lambda t: t.layer is not None and t.layer in layers),
        *both(lambda t: not t.embedding),
    )
