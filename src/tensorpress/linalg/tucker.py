"""Partial Tucker: bases from Gram matrices, then orthogonal iteration.

The truncated HOSVD is that of De Lathauwer, De Moor and Vandewalle ("A multilinear singular value
decomposition", 2000), the iteration (HOOI) theirs of the same year ("On the best rank-1 and
rank-(R1, ..., RN) approximation of higher-order tensors").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorpress.linalg.bounds import of_tails
from tensorpress.linalg.gram import SAFE_TAIL, gram, leading_right
from tensorpress.linalg.whitening import Diagonal, Root

SWEEPS = 20
"""Most sweeps of HOOI."""
TOLERANCE = 1e-5
"""Share of the energy by which a sweep must raise what is captured, or it is the last one."""
ROUGHLY = 1e-4
"""``TOLERANCE`` where errors of many sizes are compared and none is kept."""
REFINED_FROM = 0.01
"""Share of the energy that the start must capture for sweeps to be worth their time."""


def row_blocks(tensor: Tensor, mode: int) -> Tensor:
    """The transposed unfolding of a mode of size n, in blocks of rows ``(b, rows, n)``.

    Blocks, so that it is a view wherever the tensor's memory allows one.
    """
    lead, size = math.prod(tensor.shape[:mode]), tensor.shape[mode]
    rest = math.prod(tensor.shape[mode + 1 :])
    if rest == 1:
        return tensor.reshape(1, lead, size)
    if rest >= size or lead == 1:
        return tensor.reshape(lead, size, rest).mT
    return tensor.movedim(mode, -1).reshape(1, -1, size)


def multi_mode_dot(tensor: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """``tensor x_n U_n^T`` for every listed mode n with basis ``U_n (size, rank)``.

    What tensorly's function of this name does with ``transpose=True``.
    """
    for mode, basis in bases.items():
        # as one matrix product a leading index, so that nothing is transposed
        lead, rest = math.prod(tensor.shape[:mode]), math.prod(tensor.shape[mode + 1 :])
        shape = (*tensor.shape[:mode], basis.shape[1], *tensor.shape[mode + 1 :])
        stack = tensor.reshape(lead, tensor.shape[mode], rest)
        product = (
            stack.flatten(1) @ basis.to(tensor.dtype)
            if rest == 1
            else basis.mT.to(tensor.dtype) @ stack
        )
        tensor = product.reshape(shape)
    return tensor


def mode_basis(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """Leading ``rank`` left singular vectors ``(n, rank)`` of a mode's unfolding, float64."""
    return leading_right(row_blocks(tensor, mode), rank, tall=True)[0]


def mode_spectrum(tensor: Tensor, mode: int, kept: int | None = None) -> Tensor:
    """All squared singular values of a mode's unfolding, largest first, float64.

    ``kept``: how many of them are no tail, so that a small one is taken from float64 products.
    """
    blocks, size = row_blocks(tensor, mode), tensor.shape[mode]
    rows = blocks.shape[0] * blocks.shape[1]
    # eigenvalues alone: the vectors of a wide mode take several times the tensor's memory
    smaller = gram(blocks.reshape(rows, size).mT) if rows < size else gram(blocks, tall=True)
    squares = torch.linalg.eigvalsh(smaller).flip(-1).clamp_min(0.0)
    is_small = kept is not None and float(squares[kept:].sum()) < SAFE_TAIL * float(squares.sum())
    if is_small and tensor.dtype != torch.float64:
        return mode_spectrum(tensor.double(), mode)
    return torch.nn.functional.pad(squares, (0, size - len(squares)))


def hosvd(
    tensor: Tensor, ranks: Mapping[int, int], ordered: bool = True
) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
    """Core, bases and squared spectra of the truncated HOSVD (De Lathauwer et al. 2000).

    A mode that keeps its size has the identity as basis and no spectrum. In truncated modes the
    bases are in order: leading blocks of core and bases are the HOSVD of smaller ranks. Not
    ``ordered``, they span the same spaces and cost less where little is cut off.
    """
    bases: dict[int, Tensor] = {}
    spectra: dict[int, Tensor] = {}
    core = tensor
    for mode, rank in ranks.items():
        size = tensor.shape[mode]
        if rank == size:
            bases[mode] = torch.eye(size, dtype=tensor.dtype, device=tensor.device)
        elif not ordered and size**2 - rank**2 < rank * size:
            vectors, spectra[mode] = leading_right(row_blocks(tensor, mode), size, True, cut=rank)
            core, bases[mode] = _reflected(core, mode, vectors[:, rank:])
        else:
            bases[mode], spectra[mode] = leading_right(row_blocks(tensor, mode), rank, tall=True)
            core = multi_mode_dot(core, {mode: bases[mode]})
    return core, bases, spectra


def _reflected(tensor: Tensor, mode: int, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """``tensor x_n U^T`` and ``U (n, rank)``, a basis of all that ``left_out (n, k)`` leaves.

    U is the last columns of ``Q = I - V T V^T``, the k Householder reflections that turn
    ``left_out`` into the first k axes (compact WY, Schreiber and Van Loan 1989): they take
    ``k (2 n - k)`` multiplications a column where U itself takes ``rank n``.
    """
    size, count = left_out.shape
    packed, scales = torch.geqrf(left_out)
    reflectors = packed.tril(-1)
    reflectors.diagonal().fill_(1)
    reflectors *= scales != 0  # a vector that is an axis already is not reflected
    inverse = (reflectors.mT @ reflectors).triu(1) + torch.where(scales == 0, 1, 1 / scales).diag()
    back = torch.linalg.solve_triangular(inverse, reflectors[count:].mT, upper=True)
    basis = torch.eye(size, dtype=back.dtype, device=back.device)[:, count:] - reflectors @ back

    lead, rest = math.prod(tensor.shape[:mode]), math.prod(tensor.shape[mode + 1 :])
    core = tensor.new_empty(*tensor.shape[:mode], size - count, *tensor.shape[mode + 1 :])
    # matrix by matrix, so that a processor's cache holds what is read twice
    stacks = (tensor.reshape(lead, size, rest), core.view(lead, size - count, rest))
    if rest == 1:
        stacks = (stacks[0].transpose(0, 2), stacks[1].transpose(0, 2))  # one wide matrix
    turn, turn_back = reflectors.mT.to(tensor.dtype), back.mT.to(tensor.dtype)
    for matrix, reflected in zip(*stacks, strict=True):
        torch.addmm(matrix[count:], turn_back, turn @ matrix, alpha=-1, out=reflected)
    return core, basis


@dataclass(frozen=True)
class Leading:
    """What HOSVDs of several ranks begin with: the smallest mode, of the largest rank."""

    basis: Tensor
    """``(n, rank)``"""
    squares: Tensor
    """The mode's squared spectrum ``(n,)``."""
    core: Tensor
    """The tensor times the basis."""

    @classmethod
    def of(cls, tensor: Tensor, ranks: Mapping[int, int]) -> Leading:
        mode = smallest_first(tensor, ranks)[0]
        basis, squares = leading_right(row_blocks(tensor, mode), ranks[mode], tall=True)
        return cls(basis, squares, multi_mode_dot(tensor, {mode: basis}))

    def cut(self, mode: int, rank: int) -> tuple[Tensor, Tensor]:
        """Core and basis of a smaller rank."""
        return self.core.narrow(mode, 0, rank), self.basis[:, :rank]


def smallest_first(tensor: Tensor, ranks: Mapping[int, int]) -> list[int]:
    """The modes with ranks, in the order of a sequential HOSVD."""
    return sorted(ranks, key=lambda mode: tensor.shape[mode])


def sequential_hosvd(
    tensor: Tensor, ranks: Mapping[int, int], first: Leading | None = None
) -> tuple[Tensor, dict[int, Tensor], dict[int, float]]:
    """Core, bases and the squared error that each mode adds, of the sequentially truncated HOSVD.

    Small modes first: each basis is of what the ones before have left, so the largest mode
    meets a small tensor; the error keeps the HOSVD's bound (Vannieuwenhoven et al. 2012). That of
    the first truncated mode is its unfolding's tail, which no tensor of these ranks falls below.
    ``first``: of the same tensor; of use where its rank is no smaller.
    """
    bases: dict[int, Tensor] = {}
    tails: dict[int, float] = {}
    for mode in smallest_first(tensor, ranks):
        rank = ranks[mode]
        if first is not None and not bases and rank <= first.basis.shape[1]:
            squares = first.squares
            tensor, bases[mode] = first.cut(mode, rank)
        else:
            bases[mode], squares = leading_right(row_blocks(tensor, mode), rank, tall=True)
            tensor = multi_mode_dot(tensor, {mode: bases[mode]})
        tails[mode] = float(squares[rank:].sum())
    return tensor, bases, tails


def partial_tucker(
    tensor: Tensor,
    ranks: Mapping[int, int],
    sweeps: int = SWEEPS,
    first: Leading | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Core and bases ``(n, rank)`` of a partial Tucker decomposition, in the tensor's dtype.

    Starts from the sequentially truncated HOSVD and sweeps over the modes (HOOI) until the
    captured energy grows by less than ``tolerance`` of the total; noise is not worth a sweep, nor
    is what no tensor of these ranks could capture. ``first`` as in ``sequential_hosvd``.
    """
    core, bases, tails = sequential_hosvd(tensor, ranks, first)
    truncated = [mode for mode in tails if ranks[mode] < tensor.shape[mode]]
    energy, error = _energy(core), sum(tails.values())
    total = energy + error
    to_gain = error - tails[truncated[0]] if truncated else 0.0
    refine = to_gain > tolerance * total and energy > REFINED_FROM * total
    for _ in range(sweeps if refine else 0):
        bases, core = _sweep(tensor, ranks, bases, truncated)
        before, energy = energy, _energy(core)
        if energy - before <= tolerance * total:
            break
    return core, bases


def weighted_tucker(
    tensor: Tensor, ranks: Mapping[int, int], roots: Mapping[int, Root | Diagonal]
) -> tuple[Tensor, dict[int, Tensor]]:
    """``partial_tucker`` of the tensor with modes multiplied by their roots, which bases undo."""
    return weighted_tuckers(tensor, ranks, roots, several=False)(ranks)


def weighted_tuckers(
    tensor: Tensor,
    largest: Mapping[int, int],
    roots: Mapping[int, Root | Diagonal],
    several: bool = True,
) -> Callable[[Mapping[int, int]], tuple[Tensor, dict[int, Tensor]]]:
    """``weighted_tucker`` by ranks, of which few modes have more than in the ``largest``.

    ``several`` of them share the weighed tensor and what each begins with, and are swept until a
    sweep is worth less than ``ROUGHLY``.
    """
    for mode, root in roots.items():
        tensor = root.whiten(tensor, mode)
    first = Leading.of(tensor, largest) if several else None
    tolerance = ROUGHLY if several else TOLERANCE

    def fit(ranks: Mapping[int, int]) -> tuple[Tensor, dict[int, Tensor]]:
        core, bases = partial_tucker(tensor, ranks, first=first, tolerance=tolerance)
        return core, bases | {mode: root.unwhiten(bases[mode], 0) for mode, root in roots.items()}

    return fit


def _sweep(
    tensor: Tensor, ranks: Mapping[int, int], bases: dict[int, Tensor], modes: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor]:
    """One HOOI sweep: the largest mode from the rest, then the others from its projection."""
    largest = max(modes, key=lambda m: tensor.shape[m])
    others = {m: basis for m, basis in bases.items() if m != largest}
    by_size = dict(sorted(others.items(), key=lambda item: -tensor.shape[item[0]]))
    bases = {**bases, largest: mode_basis(multi_mode_dot(tensor, by_size), largest, ranks[largest])}
    small = multi_mode_dot(tensor, {largest: bases[largest]})
    for mode in (m for m in modes if m != largest):
        rest = {m: basis for m, basis in bases.items() if m not in (mode, largest)}
        bases[mode] = mode_basis(multi_mode_dot(small, rest), mode, ranks[mode])
    return bases, multi_mode_dot(small, {m: b for m, b in bases.items() if m != largest})


def _energy(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def tucker_bounds(tensor: Tensor, ranks: Mapping[int, int]) -> tuple[float, float]:
    """Bounds of the relative error, from the tails of the modes' unfoldings (``of_tails``)."""
    tails = [float(mode_spectrum(tensor, m, rank)[rank:].sum()) for m, rank in ranks.items()]
    return of_tails(tails, _energy(tensor))
