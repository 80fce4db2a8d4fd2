"""A TT-matrix and, on top of it, the exact values of a few entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Format
from .coordinates import coordinate_bits
from .places import pack_coordinates, unpack_coordinates
from .tt_matrix import TTMatrix


class TTSparse(TTMatrix):
    """Cores of the inliers; ``outlier_k (n_k,)`` and their packed coordinates per slice k.

    A coordinate takes ``ceil(log2 out) + ceil(log2 in)`` bits and no more (``places``).
    """

    name = "tt_sparse"
    exact = ("outlier_",)

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: Sequence[int],
        outliers: Sequence[int],
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            in_modes=in_modes,
            out_modes=out_modes,
            ranks=ranks,
        )
        self.settings["outliers"] = list(outliers)
        self.coordinate_bits = coordinate_bits(out_features, in_features)
        for index, count in enumerate(outliers):
            self.factor(f"outlier_{index}", (count,))
            size = -(-count * sum(self.coordinate_bits) // 8)
            self.register_buffer(f"place_{index}", torch.zeros(size, dtype=torch.uint8))

    def pack(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Coordinates ``(n,)`` as the bytes of ``place_k``."""
        return pack_coordinates(rows, columns, self.coordinate_bits)

    def coordinates(self, index: int) -> tuple[Tensor, Tensor]:
        """Rows and columns ``(n,)`` of the outliers of one slice."""
        count = self.settings["outliers"][index]
        return unpack_coordinates(self.get_buffer(f"place_{index}"), count, self.coordinate_bits)

    def packed(self) -> dict[str, tuple[int, int]]:
        counts = self.settings["outliers"]
        return {f"place_{k}": (n, sum(self.coordinate_bits)) for k, n in enumerate(counts)}

    def project(self, x: Tensor, index: int) -> Tensor:
        rows, columns = self.coordinates(index)
        values = getattr(self, f"outlier_{index}").to(x.dtype)
        return super().project(x, index).index_add(-1, rows, x[..., columns] * values)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        # each slice has its own number of outliers, which no grouped product takes
        return Format.project_grouped(self, x, ends)

    def rows(self, ids: Tensor, index: int) -> Tensor:
        return self.dense(index)[ids]

    def dense(self, index: int) -> Tensor:
        values = getattr(self, f"outlier_{index}")
        return self.rebuild(index).index_put(self.coordinates(index), values, accumulate=True)
