"""A TT-matrix and, on top of it, the exact values of a few entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Format
from .tt_matrix import TTMatrix


class TTSparse(TTMatrix):
    """Cores of the inliers; ``outlier_k (n_k,)`` and their packed coordinates per slice k.

    A coordinate takes ``ceil(log2 out) + ceil(log2 in)`` bits and no more: they are packed into
    bytes, row bits before column bits, most significant first.
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
        self.coordinate_bits = ((out_features - 1).bit_length(), (in_features - 1).bit_length())
        for index, count in enumerate(outliers):
            self.factor(f"outlier_{index}", (count,))
            size = -(-count * sum(self.coordinate_bits) // 8)
            self.register_buffer(f"place_{index}", torch.zeros(size, dtype=torch.uint8))

    def pack(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Coordinates ``(n,)`` as the bytes of ``place_k``."""
        row_bits, column_bits = self.coordinate_bits
        bits = torch.cat([_bits(rows, row_bits), _bits(columns, column_bits)], dim=1).flatten()
        padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
        return (padded * _weights(8, padded.device)).sum(1).to(torch.uint8)

    def coordinates(self, index: int) -> tuple[Tensor, Tensor]:
        """Rows and columns ``(n,)`` of the outliers of one slice."""
        row_bits, column_bits = self.coordinate_bits
        count = self.settings["outliers"][index]
        bits = _bits(self.get_buffer(f"place_{index}").long(), 8).flatten()
        bits = bits[: count * (row_bits + column_bits)].view(count, row_bits + column_bits)
        rows = (bits[:, :row_bits] * _weights(row_bits, bits.device)).sum(1)
        return rows, (bits[:, row_bits:] * _weights(column_bits, bits.device)).sum(1)

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


def _bits(numbers: Tensor, width: int) -> Tensor:
    """Binary digits ``(n, width)``, most significant first."""
    return (numbers[:, None] >> torch.arange(width - 1, -1, -1, device=numbers.device)) & 1


def _weights(width: int, device: torch.device) -> Tensor:
    return 2 ** torch.arange(width - 1, -1, -1, device=device)
