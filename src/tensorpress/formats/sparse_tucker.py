"""Tucker of a stack of matrices whose cores have a format of their own, such as a sparse one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Format


class SparseTucker(Format):
    """``stream (hidden, r0)``, ``own (D, r1)``, ``mix (S, S)`` and ``core``, a format.

    The core holds matrices ``C_r (heads r1, r0)``; slice s has ``C_s = sum_r mix[s, r] C_r``, and
    without ``mix`` its own. ``sides[s]`` says which side of the matrix the residual stream is:
    ``in`` gives ``W_s = (I_heads x own) C_s stream^T``, ``out`` its transpose. Several heads share
    ``own``; where nothing is in heads there is one. ``out_features`` and ``in_features`` are those
    of slice 0.
    """

    name = "sparse_tucker"
    stream: Tensor
    own: Tensor
    mix: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        heads: int,
        sides: Sequence[str],
        mixed: bool,
        core: Format,
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            heads=heads,
            sides=list(sides),
            mixed=mixed,
            core=core.description,
        )
        self.heads, self.sides, self.mixed = heads, tuple(sides), mixed
        hidden, flat = in_features, out_features
        if sides[0] == "out":
            hidden, flat = flat, hidden
        self.factor("stream", (hidden, core.in_features))
        self.factor("own", (flat // heads, core.out_features // heads))
        if mixed:
            self.factor("mix", (slices, slices))
        self.core = core

    def matrix_shape(self, index: int) -> tuple[int, int]:
        first = (self.out_features, self.in_features)
        return first if self.sides[index] == self.sides[0] else (first[1], first[0])

    def slice_core(self, index: int) -> Tensor:
        """The core ``(heads r1, r0)`` of one matrix, rebuilt."""
        if not self.mixed:
            return self.core.dense(index)
        total, *others = (self.mix[index, r] * self.core.dense(r) for r in range(self.slices))
        for each in others:
            total = total + each
        return total

    def project(self, x: Tensor, index: int) -> Tensor:
        core = self.slice_core(index)
        if self.sides[index] == "in":
            heads = (x @ self.stream @ core.mT).unflatten(-1, (self.heads, -1))
            return (heads @ self.own.mT).flatten(-2)
        heads = x.unflatten(-1, (self.heads, -1)) @ self.own
        return heads.flatten(-2) @ core @ self.stream.mT

    def dense(self, index: int) -> Tensor:
        rows = self.slice_core(index).unflatten(0, (self.heads, -1))
        matrix = (self.own @ rows).flatten(0, 1) @ self.stream.mT
        return matrix if self.sides[index] == "in" else matrix.mT

    def macs(self) -> int:
        cores = self.slices if self.mixed else 1  # what mixing them takes, a token at most
        return self.stream.numel() + self.heads * self.own.numel() + cores * self.core.macs()

    def peak_rebuilt_values(self) -> int:
        return (1 + 2 * self.mixed) * self.core.out_features * self.core.in_features
