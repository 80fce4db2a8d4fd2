"""Some rows or columns of the matrices of a group: the rest is zero and is not stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Format
from .rounding import pack, packed_bytes, unpack


def narrowed(store: Format, modules: Sequence[str]) -> dict[str, Tensor]:
    """Modules of one matrix whose layers have fewer outputs than the matrix rows: which they have.

    ``modules`` are those whose slices the store has, as many for each.
    """
    if not isinstance(store, Subset) or store.runs(0)[0] is store:
        return {}
    each = store.slices // len(modules)
    first = {module: index * each for index, module in enumerate(modules)}
    return {m: store.places(i) for m, i in first.items() if store.keeps_rows(i)}


class Subset(Format):
    """``part_m`` holds what module m keeps: rows (``sides[m]`` is ``out``) or columns (``in``).

    Slices of all modules follow each other, E each: matrix e of module m is slice ``m E + e``.
    Neurons of an FFN: the modules keep the same ``kept (E, width)``, one bit for each of ``width``
    neurons, packed and stored once; only rebuilding reads it, for a layer runs the parts themselves
    and is so much narrower. With ``heads`` module m is that many heads side by side, each ``width``
    wide, which keep their first rows or columns; a layer's outputs keep their width.
    """

    name = "subset"
    kept: Tensor

    def __init__(
        self,
        *,
        parts: Sequence[Format],
        sides: Sequence[str],
        width: int,
        heads: Sequence[int] | None = None,
    ) -> None:
        self.width, self.each = width, parts[0].slices
        self._heads = None if heads is None else tuple(heads)
        self._sides = tuple(sides)
        out_features, in_features = self._whole_shape(parts[0], 0)
        super().__init__(
            slices=len(parts) * self.each, out_features=out_features, in_features=in_features
        )
        self.settings = {
            "parts": [part.description for part in parts],
            "sides": list(sides),
            "width": width,
            "heads": None if heads is None else list(heads),
        }
        for module, part in enumerate(parts):
            self.add_module(f"part_{module}", part)
        if heads is None:
            size = packed_bytes(self.each * width, 1)
            self.register_buffer("kept", torch.zeros(size, dtype=torch.uint8))

    def part(self, index: int) -> tuple[Format, int]:
        """What holds the kept rows or columns of matrix ``index``, and its slice there."""
        module, own = divmod(index, self.each)
        part: Format = self.get_submodule(f"part_{module}")  # type: ignore[assignment]
        return part, own

    def runs(self, index: int) -> tuple[Format, int]:
        return self.part(index) if self._heads is None else (self, index)

    def widened(self, y: Tensor, index: int) -> Tensor:
        return self._widen(y, index) if self._heads is None and self.keeps_rows(index) else y

    def with_parts(self, parts: Sequence[Format]) -> Subset:
        """The same rows and columns, held by other formats."""
        changed = Subset(parts=parts, sides=self._sides, width=self.width, heads=self._heads)
        if self._heads is None:
            changed.kept = self.kept
        return changed

    @property
    def parts(self) -> list[Format]:
        """The parts of all modules."""
        return [self.part(first)[0] for first in range(0, self.slices, self.each)]

    @staticmethod
    def pack(kept: Tensor) -> Tensor:
        """Marks ``(E, width)``, one where a neuron is kept, as the bytes of ``kept``."""
        return pack(kept.flatten().to(torch.uint8), 1)

    def marks(self) -> Tensor:
        """``(E, width)``, true where a neuron is kept."""
        return unpack(self.kept, 1, self.each * self.width).view(self.each, self.width).bool()

    def places(self, index: int) -> Tensor:
        """The neurons ``(kept,)`` that matrix ``index`` keeps, ascending."""
        part, own = self.part(index)
        # not nonzero, whose size is no part of a compiled graph
        first = self.marks()[own].byte().argsort(descending=True, stable=True)
        return first[: self._count(part, index)]

    def matrix_shape(self, index: int) -> tuple[int, int]:
        return self._whole_shape(self.part(index)[0], index // self.each)

    def project(self, x: Tensor, index: int) -> Tensor:
        part, own = self.part(index)
        if self.keeps_rows(index):
            return self._widen(part.project(x, own), index)
        return part.project(self._narrow(x, index), own)

    def dense(self, index: int) -> Tensor:
        part, own = self.part(index)
        return self._whole(part.dense(own), index)

    def restored(self, matrix: Tensor, index: int) -> Tensor:
        return matrix if self._heads is not None else self._whole(matrix, index)

    def macs(self) -> int:
        return max(part.macs() for part in self.parts)

    def peak_rebuilt_values(self) -> int:
        return max(part.peak_rebuilt_values() for part in self.parts)

    def packed(self) -> dict[str, tuple[int, int]]:
        own = {"kept": (self.each * self.width, 1)} if self._heads is None else {}
        return own | super().packed()

    def keeps_rows(self, index: int) -> bool:
        """Whether the rest of matrix ``index`` is rows, not columns."""
        return self._sides[index // self.each] == "out"

    def _count(self, part: Format, index: int) -> int:
        return part.out_features if self.keeps_rows(index) else part.in_features

    def _whole(self, matrix: Tensor, index: int) -> Tensor:
        if self.keeps_rows(index):
            return self._widen(matrix.mT, index).mT
        return self._widen(matrix, index)

    def _whole_shape(self, part: Format, module: int) -> tuple[int, int]:
        width = self.width * (1 if self._heads is None else self._heads[module])
        if self._sides[module] == "out":
            return width, part.in_features
        return part.out_features, width

    def _widen(self, y: Tensor, index: int) -> Tensor:
        """Kept values ``(..., kept)`` where they belong, zeros elsewhere: ``(..., whole)``."""
        if self._heads is None:
            wide = y.new_zeros(*y.shape[:-1], self.width)
            return wide.index_copy(-1, self.places(index), y)
        by_head = y.unflatten(-1, (self._heads[index // self.each], -1))
        return pad(by_head, (0, self.width - by_head.shape[-1])).flatten(-2)

    def _narrow(self, x: Tensor, index: int) -> Tensor:
        """The kept of values ``(..., whole)``: ``(..., kept)``."""
        if self._heads is None:
            return x[..., self.places(index)]
        part, heads = self.part(index)[0], self._heads[index // self.each]
        by_head = x.unflatten(-1, (heads, self.width))
        return by_head[..., : part.in_features // heads].flatten(-2)
