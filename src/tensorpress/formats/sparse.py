"""Matrices most of whose entries are zero: the values of the others, and where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Format
from .coordinates import coordinate_bits
from .places import (
    mask_bytes,
    pack_coordinates,
    pack_mask,
    unpack_coordinates,
    unpack_mask,
)
from .rounding import packed_bytes


class Sparse(Format):
    """``values (sum kept,)`` of all slices, each in reading order, and ``places (S, bytes)``.

    ``kept[s]`` entries of matrix s are not zero. Where they are says a bit for every entry or the
    coordinates of those kept, whichever takes fewer bits in all (``places``). ``project`` rebuilds
    one matrix for a moment: no kernel multiplies by scattered entries as fast as by all of them.
    """

    name = "sparse"
    values: Tensor
    places: Tensor

    def __init__(
        self, *, slices: int, out_features: int, in_features: int, kept: Sequence[int]
    ) -> None:
        super().__init__(
            slices=slices, out_features=out_features, in_features=in_features, kept=list(kept)
        )
        self.kept = tuple(kept)
        self.coordinate_bits = coordinate_bits(out_features, in_features)
        entries, width = out_features * in_features, sum(self.coordinate_bits)
        self.has_mask = slices * entries <= sum(kept) * width
        size = mask_bytes(out_features, in_features)
        if not self.has_mask:
            size = packed_bytes(max(kept), width)
        self.factor("values", (sum(kept),))
        self.register_buffer("places", torch.zeros(slices, size, dtype=torch.uint8))

    @staticmethod
    def of(weight: Tensor, masks: Tensor) -> Format:
        """The entries of ``weight (S, out, in)`` where ``masks`` of that shape are true."""
        kept = masks.flatten(1).sum(1).tolist()
        slices, out_features, in_features = weight.shape
        with weight.device:
            store = Sparse(
                slices=slices, out_features=out_features, in_features=in_features, kept=kept
            )
        places = torch.stack([store.pack(mask) for mask in masks])
        return store.fill(values=weight[masks], places=places)

    def pack(self, mask: Tensor) -> Tensor:
        """Where a mask ``(out, in)`` is true, as a row of ``places``."""
        if self.has_mask:
            return pack_mask(mask)
        rows, columns = mask.nonzero(as_tuple=True)
        packed = pack_coordinates(rows, columns, self.coordinate_bits)
        return nn.functional.pad(packed, (0, self.places.shape[1] - len(packed)))

    def packed(self) -> dict[str, tuple[int, int]]:
        if self.has_mask:
            return {"places": (self.slices * self.out_features * self.in_features, 1)}
        return {"places": (sum(self.kept), sum(self.coordinate_bits))}

    def dense(self, index: int) -> Tensor:
        start = sum(self.kept[:index])
        values = self.values[start : start + self.kept[index]]
        shape = (self.out_features, self.in_features)
        zeros = values.new_zeros(shape)
        if self.has_mask:
            return zeros.masked_scatter(unpack_mask(self.places[index], shape), values)
        places = unpack_coordinates(self.places[index], self.kept[index], self.coordinate_bits)
        return zeros.index_put(places, values)

    def project(self, x: Tensor, index: int) -> Tensor:
        return nn.functional.linear(x, self.dense(index))

    def macs(self) -> int:
        return self.out_features * self.in_features

    def peak_rebuilt_values(self) -> int:
        return self.out_features * self.in_features
