"""Bits of tensors: the only place that counts them. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

VALUE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, as far as counting goes.

    ``layer`` is ``None`` outside the transformer layers; ``replaced`` marks weights that a
    method replaces (dense side) and the factors that replace them (stored side). ``bits`` is
    given where a value does not take the bits of the storage dtype: packed coordinates.
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


@dataclass(frozen=True)
class BitsSaved:
    """Bits of the whole model, and the saving over each denominator in percent."""

    dense_bits: int
    stored_bits: int
    modules_dense_bits: int
    modules_stored_bits: int
    modules_percent: float
    blocks_percent: float
    without_embeddings_percent: float
    with_embeddings_percent: float


def bits(tensors: Iterable[StoredTensor], value_bits: int) -> int:
    """Bits of tensors whose values take ``value_bits`` each, unless they say otherwise."""
    return sum(tensor.numel * (tensor.bits or value_bits) for tensor in tensors)


def bits_saved(dense: list[StoredTensor], stored: list[StoredTensor], value_bits: int) -> BitsSaved:
    """Compare a model before and after: methods.md section 4, ``100 * (1 - stored / dense)``.

    Denominators: replaced modules; all of the layers that hold one; the model without its
    input embedding; the model. Tied weights must be listed once on both sides.
    """
    layers = {t.layer for t in dense if t.replaced}

    def saved(counts: Callable[[StoredTensor], bool]) -> float:
        before = bits(filter(counts, dense), value_bits)
        after = bits(filter(counts, stored), value_bits)
        return 100.0 * (1.0 - after / before) if before else 0.0

    return BitsSaved(
        dense_bits=bits(dense, value_bits),
        stored_bits=bits(stored, value_bits),
        modules_dense_bits=bits((t for t in dense if t.replaced), value_bits),
        modules_stored_bits=bits((t for t in stored if t.replaced), value_bits),
        modules_percent=saved(lambda t: t.replaced),
        blocks_percent=saved(lambda t: t.layer is not None and t.layer in layers),
        without_embeddings_percent=saved(lambda t: not t.embedding),
        with_embeddings_percent=saved(lambda t: True),
    )
