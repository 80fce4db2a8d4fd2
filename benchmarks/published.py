"""The published algorithms for the groups of one layer, on the device of the weights, timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from decompose import ORDER, now, their_train, their_tucker
from torch import Tensor

from tensorpress.linalg.tt_shapes import TTShape
from tensorpress.methods.factors import Factors, stacked

TUCKER = {"hidden": 64, "head_dim": 4, "stack": 2}

Peer = Callable[[dict[str, Tensor], dict[str, Tensor], Sequence[Factors]], tuple[float, float]]
"""Weights and moments of a layer's group, and our factors, whose ranks are taken: its seconds and
the squared norm of its error over that of the weights."""


def together(runs: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Seconds of all, and squared error over squared norm of all, from (s, error, norm)."""
    norm = sum(each[2] for each in runs)
    return sum(each[0] for each in runs), sum(each[1] ** 2 * each[2] for each in runs) / norm


def their_svds(
    weights: dict[str, Tensor], moments: dict[str, Tensor], factors: Sequence[Factors]
) -> tuple[float, float]:
    """``torch.linalg.svd``; whitened by the Cholesky factor of the moment, as SVD-LLM does."""
    runs = []
    for each in factors:
        (module,), rank = each.modules, each.store.settings["rank"]
        weight, start = weights[module], now()
        root = None
        if moments:
            ridge = 1e-6 * moments[module].diagonal().mean()
            identity = torch.eye(weight.shape[1], device=weight.device)
            root = torch.linalg.cholesky(moments[module] + ridge * identity)
        matrix = weight if root is None else weight @ root
        left, middle, right = torch.linalg.svd(matrix, full_matrices=False)
        left, right = left[:, :rank] * middle[:rank], right[:rank]
        if root is not None:
            right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
        taken = now() - start
        runs.append((taken, float((left @ right - weight).norm() / weight.norm()), norm_of(weight)))
    return together(runs)


def their_trains(
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    factors: Sequence[Factors],
) -> tuple[float, float]:
    """tntorch, matrix by matrix."""
    runs = []
    for weight in weights.values():
        shape = TTShape.balanced(weight.shape[1], weight.shape[0], ORDER)
        start = now()
        cores, error = their_train(weight, shape)
        runs.append((now() - start, error(cores), norm_of(weight)))  # type: ignore[operator]
    return together(runs)


def their_attention(
    weights: dict[str, Tensor], moments: dict[str, Tensor], factors: Sequence[Factors]
) -> tuple[float, float]:
    """tensorly's HOOI of the four projections ``(stack, hidden, head, head_dim)``."""
    heads = factors[0].store.settings["heads"]
    sides = [w.mT if module == "attention.o" else w for module, w in weights.items()]
    stack = torch.stack([side.mT.unflatten(1, (heads, -1)) for side in sides]).contiguous()
    ranks = {0: TUCKER["stack"], 1: TUCKER["hidden"], 3: TUCKER["head_dim"]}
    return together([tucker(stack, ranks)])


def their_ffn(
    weights: dict[str, Tensor], moments: dict[str, Tensor], factors: Sequence[Factors]
) -> tuple[float, float]:
    """tensorly's HOOI of gate and up together and of down."""
    runs = []
    for each in factors:
        stack = torch.cat([stacked(weights[module]) for module in each.modules])
        settings = each.store.settings
        runs.append(tucker(stack, {1: settings["out_rank"], 2: settings["in_rank"]}))
    return together(runs)


def tucker(stack: Tensor, ranks: dict[int, int]) -> tuple[float, float, float]:
    """Seconds, relative error and squared norm."""
    start = now()
    made, error = their_tucker(stack, ranks)
    return now() - start, error(made), norm_of(stack)  # type: ignore[operator]


def norm_of(tensor: Tensor) -> float:
    """Squared Frobenius norm."""
    return float(tensor.double().square().sum())


PEERS: dict[str, tuple[str, Peer]] = {
    "svd": ("torch.linalg.svd", their_svds),
    "svd-whitened": ("SVD-LLM", their_svds),
    "tt": ("tntorch", their_trains),
    "tucker_qkvo": ("tensorly", their_attention),
    "tucker_ffn": ("tensorly", their_ffn),
}
