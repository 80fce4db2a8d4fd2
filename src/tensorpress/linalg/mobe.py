"""Shared bases of a stack of matrices: ``W_e ~ A_e f(sum_j mix_ej B_j)``.

MoBE (Chen et al. 2025). Of given mixtures ``H_e = f(sum_j mix_ej B_j)`` the best ``A_e`` are a
least-squares solution, so only bases and mixing weights are searched (variable projection, Golub
and Pereyra 1973): by Adam, as in MoBE's code, whose start is ours too. The gradient is that at the
solved ``A_e``. Matrices go through float64 a few at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import leading_right

RIDGE = 1e-10
"""Of the normal equations, as a share of the mean of their diagonal."""
LEARNING_RATE = 0.07
"""As published; it decays to nothing as a cosine."""
BLUR = 0.2
"""Share of every matrix's mixing weights that is spread over all bases at the start."""
BASIS_SCALE = 0.5
"""Root mean square of the bases' entries at the start: where tanh and SiLU begin to bend."""


@dataclass(frozen=True)
class Weighing:
    """What errors ``R_e`` are weighed by: ``share_e tr(rows_e R_e columns_e R_e^T)``.

    Rows and columns: moments ``(E, n, n)``, or diagonals ``(E, n)``, or nothing.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    shares: Float[Tensor, " experts"] | None = None

    def part(self, some: slice) -> Weighing:
        """That of some matrices, in float64."""
        rows, columns, shares = (
            None if each is None else each[some].double()
            for each in (self.rows, self.columns, self.shares)
        )
        return Weighing(rows, columns, shares)

    def of_columns(self, matrices: Tensor) -> Tensor:
        """``R_e columns_e``."""
        if self.columns is None:
            return matrices
        if self.columns.ndim == 2:
            return matrices * self.columns[:, None]
        return matrices @ self.columns

    def of_all(self, matrices: Tensor) -> Tensor:
        """``share_e rows_e R_e columns_e``."""
        weighed = self.of_columns(matrices)
        if self.rows is not None:
            is_diagonal = self.rows.ndim == 2
            weighed = self.rows[..., None] * weighed if is_diagonal else self.rows @ weighed
        return weighed if self.shares is None else self.shares[:, None, None] * weighed


@dataclass(frozen=True)
class SharedBases:
    """Factors of ``W_e ~ left_e f(sum_j mix_ej bases_j)``, float64."""

    left: Float[Tensor, "experts out rank"]
    bases: Float[Tensor, "shared rank in"]
    mix: Float[Tensor, "experts shared"]


def linear_start(
    stack: Float[Tensor, "experts out in"], rank: int, count: int
) -> tuple[Float[Tensor, "shared rank in"], Float[Tensor, "experts shared"]]:
    """Bases and mixing weights of neighbours: each basis the SVD of as many matrices, its own.

    The right singular vectors by the roots of their values. Exact for matrices of such structure.
    """
    bases, mix = [], torch.zeros(len(stack), count, dtype=torch.float64, device=stack.device)
    for basis, some in enumerate(_groups(len(stack), count)):
        vectors, squares = leading_right(stack[some].flatten(0, 1), rank)
        sizes = torch.nn.functional.pad(squares, (0, max(0, rank - len(squares))))[:rank]
        bases.append(vectors.double().mT * sizes.clamp_min(0.0).pow(0.25)[:, None])
        mix[some, basis] = 1.0
    return torch.stack(bases), mix


def shared_bases(
    stack: Float[Tensor, "experts out in"],
    rank: int,
    count: int,
    activation: str,
    steps: int,
    batch: int,
    weighing: Weighing | None = None,
) -> SharedBases:
    """``count`` bases, after ``steps`` of Adam; ``batch`` matrices are in float64 at a time."""
    weighing = weighing or Weighing()
    norm = torch.linalg.vector_norm(stack, dtype=torch.float64)
    size = norm / stack.numel() ** 0.5 if norm > 0 else torch.ones_like(norm)
    bases, mix = linear_start(stack, rank, count)
    bases *= BASIS_SCALE / bases.square().mean().sqrt().clamp_min(1e-300)
    mix = (1 - BLUR) * mix + BLUR / count
    total = sum(
        float((weighing.part(some).of_all(stack[some].double()) * stack[some]).sum())
        for some in _batches(len(stack), batch)
    )
    optimiser = torch.optim.Adam([bases, mix], lr=LEARNING_RATE, foreach=False)
    bend = BENDS[activation]
    for step in range(steps if total > 0 else 0):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * _cosine(step / steps)
        bases.grad, mix.grad = torch.zeros_like(bases), torch.zeros_like(mix)
        for some in _batches(len(stack), batch):
            one = _Fitted.of(stack[some].double() / size, bases, mix[some], bend, weighing, some)
            change = one.gradient() * (size**2 / total)
            bases.grad += torch.einsum("em,eri->mri", mix[some], change)
            mix.grad[some] = torch.einsum("eri,mri->em", change, bases)
        optimiser.step()
    bases.grad = mix.grad = None
    left = [
        _Fitted.of(stack[some].double(), bases, mix[some], bend, weighing, some).left
        for some in _batches(len(stack), batch)
    ]
    return SharedBases(torch.cat(left), bases, mix)


def _straight(mixed: Tensor) -> tuple[Tensor, Tensor]:
    return mixed, torch.ones_like(mixed)


def _tanh(mixed: Tensor) -> tuple[Tensor, Tensor]:
    bent = mixed.tanh()
    return bent, 1 - bent.square()


def _silu(mixed: Tensor) -> tuple[Tensor, Tensor]:
    gate = mixed.sigmoid()
    return mixed * gate, gate * (1 + mixed * (1 - gate))


BENDS = {"tanh": _tanh, "silu": _silu, "identity": _straight}
"""Values and slopes of what ``formats.mobe`` bends mixtures by."""


@dataclass(frozen=True)
class _Fitted:
    """Some matrices with the best left factors of their mixtures."""

    left: Tensor
    rest: Tensor
    """What the product leaves of the matrices, weighed."""
    slope: Tensor

    @classmethod
    def of(
        cls,
        matrices: Tensor,
        bases: Tensor,
        mix: Tensor,
        bend: Callable[[Tensor], tuple[Tensor, Tensor]],
        weighing: Weighing,
        some: slice,
    ) -> _Fitted:
        own = weighing.part(some)
        bent, slope = bend((mix @ bases.flatten(1)).unflatten(1, bases.shape[1:]))
        seen = own.of_columns(bent)
        normal = seen @ bent.mT
        diagonal = normal.diagonal(dim1=1, dim2=2)
        # something where a mixture is zero too
        diagonal += (RIDGE * diagonal.mean(1, keepdim=True)).clamp_min(1e-300)
        left = torch.linalg.solve(normal, seen @ matrices.mT).mT
        return cls(left, own.of_all(left @ bent - matrices), slope)

    def gradient(self) -> Tensor:
        """Of the weighed squared error by the mixtures before they are bent."""
        return 2 * (self.left.mT @ self.rest) * self.slope


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _groups(slices: int, count: int) -> Iterator[slice]:
    """Neighbours that share a basis; as many each as ``count`` allows."""
    for basis in range(count):
        yield slice(slices * basis // count, slices * (basis + 1) // count)


def _batches(slices: int, batch: int) -> Iterator[slice]:
    for first in range(0, slices, batch):
        yield slice(first, min(first + batch, slices))
