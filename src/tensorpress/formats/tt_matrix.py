"""TT-matrix (matrix product operator): a chain of cores, contracted with the activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear

BLOCK_VALUES = 2**20
"""Values of a rebuilt block: large products are efficient, and 4 MB of float32 stay in a cache."""

STATE_VALUES = 2**26
"""Values between two cores: of the table of a large vocabulary one token has 10^7."""


class TTMatrix(Format):
    """``core_k (S, r_{k-1}, in_k, out_k, r_k)`` for k = 0 .. d-1 (Oseledets 2011).

    ``W[(o_1..o_d), (i_1..i_d)] = G_1[i_1, o_1] ... G_d[i_d, o_d]``. Applied to few tokens the
    cores are contracted with them; for many, where that takes fewer MACs, blocks of rows are
    rebuilt and multiplied one by one. The whole matrix is never in memory. Output modes whose
    product is larger than ``out_features`` stand for rows behind the last, which nobody sees.
    """

    name = "tt_matrix"

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: Sequence[int],
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            in_modes=list(in_modes),
            out_modes=list(out_modes),
            ranks=list(ranks),
        )
        self.in_modes, self.out_modes = tuple(in_modes), tuple(out_modes)
        for k, (n, m) in enumerate(self._modes()):
            self.factor(f"core_{k}", (slices, ranks[k], n, m, ranks[k + 1]))
        sizes = [ranks[k] * n * m * ranks[k + 1] for k, (n, m) in enumerate(self._modes())]
        self.chain_macs = sum(size * self._rows_per_token(k) for k, size in enumerate(sizes))
        """MACs of contracting the cores with one token."""
        self.rebuild_macs = self._joins()
        """MACs of rebuilding one matrix."""
        self.dense_macs = out_features * in_features

    def macs(self) -> int:
        return min(self.chain_macs, self.dense_macs + self.rebuild_macs)

    def peak_rebuilt_values(self) -> int:
        if self.chain_macs <= self.dense_macs:
            return 0  # the cores are contracted whatever the number of tokens
        half = len(self.out_modes) // 2
        rows = math.prod(self.out_modes[half:])
        return self._rows_at_once(rows) * rows * self.in_features

    def rows(self, ids: Tensor, index: int) -> Tensor:
        cores = self.cores(index)
        parts = ids.split(max(1, STATE_VALUES // self._widest_row()))
        return torch.cat([self._rows(part, cores) for part in parts])

    def _widest_row(self) -> int:
        """Values of one row on the way: the part of a core that it takes, and what it makes."""
        ranks, done, widest = self.settings["ranks"], 1, 1
        for k in reversed(range(len(self.in_modes))):
            n, m = self._modes()[k]
            taken = ranks[k] * n * ranks[k + 1] if m > 1 else 0
            done *= n
            widest = max(widest, taken, ranks[k] * done)
        return widest

    def _rows(self, ids: Tensor, cores: Sequence[Tensor]) -> Tensor:
        # state: (n, rank, inputs made); each core gives the digit of the row that is its own. From
        # the last, so that a train whose outputs come behind its inputs makes inputs at the end
        state, place = cores[0].new_ones(1, 1, 1).expand(len(ids), 1, 1), 1
        for core, m in zip(reversed(cores), reversed(self.out_modes), strict=True):
            if m == 1:  # the same for every row
                state = torch.einsum("rns,tsi->trni", core[:, :, 0], state)
            else:
                chosen = core[:, :, (ids // place) % m]
                state = torch.einsum("rnts,tsi->trni", chosen, state)
            state, place = state.flatten(2), place * m
        return state[:, 0]

    def _modes(self) -> list[tuple[int, int]]:
        return list(zip(self.in_modes, self.out_modes, strict=True))

    def cores(self, index: int) -> list[Tensor]:
        """Cores ``(r_{k-1}, in_k, out_k, r_k)`` of one matrix."""
        return [getattr(self, f"core_{k}")[index] for k in range(len(self.in_modes))]

    def project(self, x: Tensor, index: int) -> Tensor:
        if self._contracts(x.numel() // self.in_features):
            return self.contract(x, index)
        blocks = [nn.functional.linear(x, w) for w in self._blocks(index)]
        return torch.cat(blocks, dim=-1)[..., : self.out_features]

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        if self._contracts(x.shape[0] // self.slices):
            return self._chain(x, lambda rows, k: self._grouped_core(rows, k, ends))
        return super().project_grouped(x, ends)

    def contract(self, x: Tensor, index: int) -> Tensor:
        """``W_index x`` core by core, the matrix never formed: the cheaper way for few tokens.

        As many tokens at a time as keep what lies between two cores within ``STATE_VALUES``.
        """
        cores = [core.flatten(0, 1).flatten(1) for core in self.cores(index)]
        flat = x.reshape(-1, self.in_features)
        parts = flat.split(max(1, STATE_VALUES // self._widest_state()))
        made = [self._chain(part, lambda rows, k: rows @ cores[k]) for part in parts]
        return torch.cat(made).view(*x.shape[:-1], self.out_features)

    def _widest_state(self) -> int:
        """Values of one token behind a core: rank, inputs still to contract, outputs made."""
        ranks, order = self.settings["ranks"], len(self.in_modes)
        return max(ranks[k + 1] * self._rows_per_token(k) * self.out_modes[k] for k in range(order))

    def _contracts(self, tokens: int) -> bool:
        """Whether contracting the cores with this many tokens takes fewer MACs than rebuilding."""
        return tokens * self.chain_macs <= self.rebuild_macs + tokens * self.dense_macs

    def _grouped_core(self, rows: Tensor, k: int, ends: Tensor) -> Tensor:
        """``rows``, equally many of each token, by core k of each token's slice."""
        core = getattr(self, f"core_{k}")
        matrices = core.flatten(1, 2).flatten(2).mT
        return grouped_linear(rows, matrices, ends * self._rows_per_token(k))

    def _rows_per_token(self, k: int) -> int:
        """Inputs still to contract times outputs already made, where core k is applied."""
        return math.prod(self.in_modes[k + 1 :]) * math.prod(self.out_modes[:k])

    def _chain(self, x: Tensor, apply: Callable[[Tensor, int], Tensor]) -> Tensor:
        """All cores, of which ``apply`` multiplies rows ``(.., r_{k-1} in_k)`` by core k."""
        # state: (tokens, rank, inputs still to contract, outputs already made)
        state = x.reshape(-1, 1, self.in_features, 1)
        tokens = state.shape[0]
        for k, (n, m) in enumerate(self._modes()):
            r_left, r_right = self.settings["ranks"][k : k + 2]
            rest, made = state.shape[2] // n, state.shape[3]
            state = state.reshape(tokens, r_left, n, rest, made).permute(0, 3, 4, 1, 2)
            state = apply(state.reshape(-1, r_left * n), k)
            state = state.reshape(tokens, rest, made, m, r_right).permute(0, 4, 1, 2, 3)
            state = state.reshape(tokens, r_right, rest, made * m)
        return state.reshape(*x.shape[:-1], math.prod(self.out_modes))[..., : self.out_features]

    def dense(self, index: int) -> Tensor:
        return self.rebuild(index)

    def rebuild(self, index: int) -> Tensor:
        """The matrix ``(out, in)`` that the cores stand for."""
        return torch.cat(list(self._blocks(index)))[: self.out_features]

    def _blocks(self, index: int) -> Iterator[Tensor]:
        """Adjacent rows ``(some, in)`` of the matrix, a block that fits into a cache at a time."""
        cores, half = self.cores(index), len(self.in_modes) // 2
        left, right = _merged_forward(cores[:half]), _merged_backward(cores[half:])
        rank, rows, columns = right.shape
        for block in left.split(self._rows_at_once(rows)):
            joined = block.reshape(-1, rank) @ right.reshape(rank, -1)
            parts = joined.view(*block.shape[:2], rows, columns).transpose(1, 2)
            yield parts.reshape(-1, self.in_features)

    def _rows_at_once(self, rows: int) -> int:
        """Rows of the left half in a block; each stands for ``rows`` of the matrix."""
        return max(1, BLOCK_VALUES // (rows * self.in_features))

    def _joins(self) -> int:
        """MACs of ``rebuild``: merging the cores of each half, then the halves."""
        ranks = self.settings["ranks"]
        sizes = [n * m for n, m in self._modes()]
        half, order = len(sizes) // 2, len(sizes)
        forward = [math.prod(sizes[: k + 1]) * ranks[k] * ranks[k + 1] for k in range(1, half)]
        backward = [ranks[k] * ranks[k + 1] * math.prod(sizes[k:]) for k in range(half, order - 1)]
        return sum(forward + backward) + self.out_features * self.in_features * ranks[half]


def _merged_forward(cores: list[Tensor]) -> Tensor:
    """The first cores ``(r, n, m, s)`` as one ``(outputs, inputs, rank)``."""
    state = cores[0][0].transpose(0, 1)
    for core in cores[1:]:
        # (o, i, r) x (r, n, m, s) -> (o, m, i, n, s)
        state = torch.tensordot(state, core, dims=1).permute(0, 3, 1, 2, 4)
        outputs, m, inputs, n, rank = state.shape
        state = state.reshape(outputs * m, inputs * n, rank)
    return state


def _merged_backward(cores: list[Tensor]) -> Tensor:
    """The last cores ``(r, n, m, s)`` as one ``(rank, outputs, inputs)``."""
    state = cores[-1][..., 0].transpose(1, 2)
    for core in reversed(cores[:-1]):
        # (r, n, m, s) x (s, o, i) -> (r, m, o, n, i)
        state = torch.tensordot(core, state, dims=1).permute(0, 2, 3, 1, 4)
        rank, m, outputs, n, inputs = state.shape
        state = state.reshape(rank, m * outputs, n * inputs)
    return state
