"""Seconds per decomposition, ours against the published algorithms, in one process.

    python benchmarks/decompose.py [--sizes small|full] [--threads N]

Tensor trains: tntorch (float64), which the study calls. Tucker: tensorly's ``partial_tucker``
with its randomised SVD. TD-MoE: the steps of the study's code, all in float32 (Gram matrices of the
copied unfoldings, their eigenvectors, the core, the rebuilt experts and their error); ours gives
factors and error, which needs no rebuilt experts. Errors are measured in float64 from what each
side returns. ``of copy`` is the time of a plain copy of the input over ours, the bound that memory
sets; ``of MACs`` that of the fewest multiplications that the job needs, at the speed of this
machine's matrix products.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import tensorly
import tntorch
import torch
from rich.console import Console
from rich.table import Table
from tensorly.decomposition import partial_tucker as their_partial_tucker
from torch import Tensor

from tensorpress.architectures.layers import ModuleShape
from tensorpress.linalg.tensor_train import tt_svd, tt_tensor
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks
from tensorpress.linalg.tucker import hosvd, multi_mode_dot, partial_tucker
from tensorpress.methods import td_moe

SIZES = {
    "small": {"tt": [(256, 256), (256, 704)], "tucker": (4, 256, 8, 32), "td_moe": (8, 96, 128)},
    "full": {
        "tt": [(4096, 4096), (4096, 11008)],
        "tucker": (4, 4096, 32, 128),
        "td_moe": (32, 768, 2048),
    },
}
ORDER, RANK = 12, 64
REPEATS = 3


@dataclass(frozen=True)
class Side:
    """Best seconds of one side and the relative error that it reached."""

    seconds: float
    error: float


def main() -> None:
    """Print one line a job."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", choices=SIZES, default="small")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    tensorly.set_backend("pytorch")
    sizes = SIZES[chosen.sizes]
    table = Table(
        "job", "theirs s", "ours s", "ratio", "error theirs", "ours / theirs", "of copy",
        "of MACs",
    )  # fmt: skip
    for rows, columns in sizes["tt"]:
        weight = noise(rows, columns)
        shape = TTShape.balanced(columns, rows, ORDER)
        ours = timed(lambda w=weight, s=shape: our_train(w, s), REPEATS)
        theirs = timed(lambda w=weight, s=shape: their_train(w, s), 1)
        job = f"TT {rows} x {columns}, order {ORDER}, rank {RANK}"
        add(table, job, weight, theirs, ours, train_macs(shape))
    stack = noise(*sizes["tucker"])
    ranks = {0: 2, 1: min(64, stack.shape[1]), 3: 4}
    ours = timed(lambda: our_tucker(stack, ranks), REPEATS)
    theirs = timed(lambda: their_tucker(stack, ranks), 1)
    steps = sorted((stack.shape[mode], rank) for mode, rank in ranks.items())
    macs = least_macs(stack.numel(), steps)
    add(table, f"Tucker {tuple(stack.shape)}, ranks 2, 64, 4", stack, theirs, ours, macs)
    experts = noise(*sizes["td_moe"])
    kept = published_ranks(*experts.shape)
    ours = timed(lambda: our_experts(experts, kept), REPEATS)
    theirs = timed(lambda: their_experts(experts, kept), 1)
    steps = [(experts.shape[mode], r) for mode, r in kept.items() if r < experts.shape[mode]]
    macs = least_macs(experts.numel(), steps)
    job = f"TD-MoE {tuple(experts.shape)}, ranks {kept[1]}, {kept[2]}"
    add(table, job, experts, theirs, ours, macs)
    Console(width=160).print(table)


def add(table: Table, job: str, data: Tensor, theirs: Side, ours: Side, macs: float) -> None:
    """One line: seconds, ratio, errors, and what memory and arithmetic allow over ours."""
    copy = timed(lambda: (data.clone(), 0.0), REPEATS).seconds
    table.add_row(
        job,
        f"{theirs.seconds:.3f}",
        f"{ours.seconds:.3f}",
        f"{theirs.seconds / ours.seconds:.1f}",
        f"{theirs.error:.6f}",
        f"{ours.error / theirs.error:.8f}" if theirs.error > 1e-9 else "exact",
        f"{copy / ours.seconds:.2f}",
        f"{macs * seconds_per_mac() / ours.seconds:.2f}",
    )


def least_macs(values: float, steps: Sequence[tuple[int, int]]) -> float:
    """Multiplications of half a Gram matrix and of a projection for each (size, rank) in turn.

    Where little is cut off, reflections of that project with fewer than the rank.
    """
    total = 0.0
    for size, rank in steps:
        total += values * (size / 2 + min(rank, size - rank**2 / size))
        values *= rank / size
    return total


def train_macs(shape: TTShape) -> float:
    """``least_macs`` of a TT-SVD: one step for each unfolding that is truncated."""
    ranks, modes = tt_ranks(shape.modes, RANK), shape.modes
    sizes = [modes[k] * ranks[k + 1] for k in range(1, len(modes))]
    steps = [(size, ranks[k]) for k, size in enumerate(sizes, start=1) if ranks[k] < size]
    return least_macs(math.prod(modes), steps[::-1])


@cache
def seconds_per_mac() -> float:
    """Seconds of one multiplication and addition in a large float32 matrix product here."""
    square = noise(2048, 2048)
    return timed(lambda: (square @ square, 0.0), REPEATS).seconds / 2048**3


def published_ranks(experts: int, rows: int, columns: int) -> dict[int, int]:
    """Ranks of modes out and in that the study's code takes to save a fifth."""
    spec = td_moe.Spec(method="td_moe", ratio=0.2, rank_choice="nearest_budget")
    shape = ModuleShape(rows, columns, experts)
    ranks = td_moe.planned_ranks(shape, spec)
    assert ranks is not None
    return {1: ranks.out, 2: ranks.inner}


def timed(run: Callable[[], tuple[object, object]], repeats: int) -> Side:
    """Best of ``repeats``; ``run`` gives (result, error or a function of the result)."""
    best = float("inf")
    for _ in range(repeats):
        start = now()
        result, error = run()
        best = min(best, now() - start)
    return Side(best, error(result) if callable(error) else float(error))


def now() -> float:
    """Seconds, with all that a GPU was asked for done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def our_train(weight: Tensor, shape: TTShape) -> tuple[list[Tensor], object]:
    """Cores by Gram matrices."""
    cores = tt_svd(tt_tensor(weight, shape), RANK, overwrite=True)
    return cores, lambda made: train_error(made, tt_tensor(weight, shape))


def their_train(weight: Tensor, shape: TTShape) -> tuple[list[Tensor], object]:
    """Cores by tntorch, as the study calls it."""
    order = len(shape.in_modes)
    axes = [axis for k in range(order) for axis in (k, order + k)]
    tensor = weight.mT.reshape(*shape.in_modes, *shape.out_modes).permute(axes)
    train = tntorch.Tensor(tensor.reshape(shape.modes).double(), ranks_tt=RANK)
    return train.cores, lambda made: train_error(made, tt_tensor(weight, shape))


def train_error(cores: list[Tensor], tensor: Tensor) -> float:
    """Relative error of the full tensor, in float64."""
    state = cores[0].double().reshape(-1, cores[0].shape[-1])
    for core in cores[1:]:
        wide = core.double()
        state = (state @ wide.reshape(wide.shape[0], -1)).reshape(-1, wide.shape[-1])
    return relative(state.reshape(tensor.shape), tensor)


def our_tucker(stack: Tensor, ranks: dict[int, int]) -> tuple[object, object]:
    """Sequentially truncated HOSVD, refined where there is something to refine."""
    return partial_tucker(stack, ranks), lambda made: tucker_error(*made, stack)


def their_tucker(stack: Tensor, ranks: dict[int, int]) -> tuple[object, object]:
    """HOOI by tensorly, with the study's settings."""
    modes = list(ranks)
    (core, factors), _ = their_partial_tucker(
        stack, rank=[ranks[m] for m in modes], modes=modes, init="svd", svd="randomized_svd",
        random_state=0, tol=1e-5,
    )  # fmt: skip
    bases = dict(zip(modes, factors, strict=True))
    return (core, bases), lambda made: tucker_error(*made, stack)


def our_experts(stack: Tensor, ranks: dict[int, int]) -> tuple[object, object]:
    """HOSVD by Gram matrices; a mode that keeps its size costs nothing."""
    core, bases, _ = hosvd(stack, ranks, ordered=False)
    return (core, bases), lambda made: tucker_error(*made, stack)


def their_experts(stack: Tensor, ranks: dict[int, int]) -> tuple[object, object]:
    """HOSVD by the eigenvectors of each unfolding's Gram matrix, rebuilt and compared."""
    bases = {}
    for mode, rank in ranks.items():
        unfolding = tensorly.unfold(stack, mode)
        vectors = torch.linalg.eigh(unfolding @ unfolding.mT).eigenvectors.flip(-1)
        bases[mode] = vectors[:, :rank].contiguous()
    core = stack
    for mode, basis in bases.items():
        core = tensorly.tenalg.mode_dot(core, basis.mT, mode)
    rebuilt = core
    for mode, basis in bases.items():
        rebuilt = tensorly.tenalg.mode_dot(rebuilt, basis, mode)
    (rebuilt - stack).norm()
    return (core, bases), lambda made: tucker_error(*made, stack)


def tucker_error(core: Tensor, bases: dict[int, Tensor], tensor: Tensor) -> float:
    """Relative error of the full tensor, in float64."""
    wide = {mode: basis.double().mT for mode, basis in bases.items()}
    return relative(multi_mode_dot(core.double(), wide), tensor)


def relative(rebuilt: Tensor, tensor: Tensor) -> float:
    """Frobenius norm of the difference over that of the tensor."""
    wide = tensor.double()
    return float((rebuilt - wide).norm() / wide.norm())


def noise(*shape: int) -> Tensor:
    """Independent Gaussian entries, the hardest case: nothing is low rank."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
