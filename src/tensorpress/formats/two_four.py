"""Two of every four adjacent inputs are kept: what the sparse tensor cores of GPUs multiply by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Format
from .rounding import pack, packed_bytes, unpack

GROUP, KEPT = 4, 2
INDEX_BITS = 2
"""Of a kept value: its place in its group."""
ROWS, COLUMNS = 32, 64
"""Matrices of multiples of these run on the sparse tensor cores in 16 bits."""


class TwoFour(Format):
    """``values (S, out, in / 2)`` and ``places``, a packed index of 2 bits for each of them.

    The places of a group ascend. On a GPU with sparse tensor cores a matrix of a fitting shape is
    multiplied in torch's semi-structured form, which is made once and kept beside the factors while
    they stay the same; else one matrix is rebuilt for a moment.
    """

    name = "two_four"
    values: Tensor
    places: Tensor

    def __init__(self, *, slices: int, out_features: int, in_features: int) -> None:
        super().__init__(slices=slices, out_features=out_features, in_features=in_features)
        self.count = slices * out_features * in_features * KEPT // GROUP
        self.factor("values", (slices, out_features, in_features * KEPT // GROUP))
        size = packed_bytes(self.count, INDEX_BITS)
        self.register_buffer("places", torch.zeros(size, dtype=torch.uint8))
        self._compressed: dict[int, tuple[tuple[object, ...], Tensor]] = {}

    @staticmethod
    def of(weight: Tensor, masks: Tensor) -> Format:
        """The entries of ``weight (S, out, in)`` where ``masks`` are true: two of each four."""
        slices, out_features, in_features = weight.shape
        with weight.device:
            store = TwoFour(slices=slices, out_features=out_features, in_features=in_features)
        groups = masks.unflatten(-1, (-1, GROUP))
        places = groups.nonzero(as_tuple=True)[-1].to(torch.uint8)
        values = weight[masks].view(store.values.shape)
        return store.fill(values=values, places=pack(places, INDEX_BITS))

    def packed(self) -> dict[str, tuple[int, int]]:
        return {"places": (self.count, INDEX_BITS)}

    def dense(self, index: int) -> Tensor:
        values = self.values[index].unflatten(-1, (-1, KEPT))
        places = unpack(self.places, INDEX_BITS, self.count).view(self.slices, *values.shape)
        zeros = values.new_zeros(*values.shape[:-1], GROUP)
        return zeros.scatter(-1, places[index].long(), values).flatten(-2)

    def project(self, x: Tensor, index: int) -> Tensor:
        if self._has_kernel():
            return nn.functional.linear(x, self._semi_structured(index))
        return nn.functional.linear(x, self.dense(index))

    def macs(self) -> int:
        return self.out_features * self.in_features

    def peak_rebuilt_values(self) -> int:
        return self.out_features * self.in_features

    def _has_kernel(self) -> bool:
        """Whether torch's kernels take the matrices; factors that are trained or decoded do not."""
        own = isinstance(self.values, nn.Parameter) and not self.values.requires_grad
        if not (own and self.values.is_cuda) or torch.compiler.is_compiling():
            return False
        fits = self.out_features % ROWS == 0 and self.in_features % COLUMNS == 0
        halves = self.values.dtype in (torch.float16, torch.bfloat16)
        return fits and halves and torch.cuda.get_device_capability(self.values.device) >= (8, 0)

    def _semi_structured(self, index: int) -> Tensor:
        values = self.values
        made_of = (values.data_ptr(), values._version, values.dtype, values.device)
        kept = self._compressed.get(index)
        if kept is None or kept[0] != made_of:
            kept = (made_of, torch.sparse.to_sparse_semi_structured(self.dense(index)))
            self._compressed[index] = kept
        return kept[1]
