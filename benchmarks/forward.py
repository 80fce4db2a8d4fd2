"""Seconds and memory of factored linear layers: dense, the published naive chain, and ours.

    python benchmarks/forward.py [--sizes small|full] [--threads N]

The naive chain contracts the cores with 16 tokens at a time, as the study's code does. ``cached``
is ours after ``cache_weight``. ``error`` is the relative difference of ours from the product with
the rebuilt matrix. ``MiB`` is the weight or the factors, and the most that one call allocates
beside its result, by the profiler's count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tensorpress.formats.base import Format
from tensorpress.formats.low_rank import LowRank
from tensorpress.formats.modules import FactoredLinear
from tensorpress.formats.tt_matrix import TTMatrix
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks

SIZES = {"small": (256,), "full": (2048, 4096)}
BATCHES = (1, 256)
ORDER, RANK, CHUNK = 12, 64, 16
REPEATS, SLOW_REPEATS = 20, 3


def main() -> None:
    """Print one line a format, width and batch."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", choices=SIZES, default="small")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    table = Table(
        "format", "width", "tokens", "dense tok/s", "naive tok/s", "ours tok/s", "ours s / dense s",
        "naive s / ours s", "error", "cached tok/s", "cached s / dense s", "dense MiB",
        "naive MiB", "ours MiB", "cached MiB",
    )  # fmt: skip
    with torch.inference_mode():
        for width in SIZES[chosen.sizes]:
            for tokens in BATCHES:
                for store in (train(width), low_rank(width)):
                    table.add_row(*line(store, width, tokens))
    Console(width=180).print(table)


def line(store: Format, width: int, tokens: int) -> list[str]:
    """Measurements of one format."""
    x, weight, cached = (
        torch.randn(tokens, width),
        store.dense(0),
        FactoredLinear([(store, 0)], False),
    )
    cached.cache_weight()
    runs: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: nn.functional.linear(x, weight),
        "ours": lambda: store.project(x, 0),
        "cached": lambda: cached(x),
    }
    taken = seconds(runs, REPEATS)
    if isinstance(store, TTMatrix):
        runs["naive"] = lambda: chain(store, x)
        taken |= seconds({"naive": runs["naive"]}, SLOW_REPEATS)
    factors = sum(factor.numel() * factor.element_size() for factor in store.parameters())
    held = {"dense": weight.nbytes, "cached": weight.nbytes + factors}
    mebibytes = {
        name: f"{(held.get(name, factors) + extra_bytes(run)) / 2**20:.1f}"
        for name, run in runs.items()
    }
    wide = x.double() @ weight.double().mT
    error = float((store.project(x, 0).double() - wide).norm() / wide.norm())
    return [
        store.name,
        str(width),
        str(tokens),
        f"{tokens / taken['dense']:,.0f}",
        f"{tokens / taken['naive']:,.0f}" if "naive" in taken else "",
        f"{tokens / taken['ours']:,.0f}",
        f"{taken['ours'] / taken['dense']:.2f}",
        f"{taken['naive'] / taken['ours']:.1f}" if "naive" in taken else "",
        f"{error:.1e}",
        f"{tokens / taken['cached']:,.0f}",
        f"{taken['cached'] / taken['dense']:.2f}",
        *(mebibytes.get(name, "") for name in ("dense", "naive", "ours", "cached")),
    ]


def train(width: int) -> TTMatrix:
    """A tensor train of the study's order and rank, with random cores."""
    shape = TTShape.balanced(width, width, ORDER)
    store = TTMatrix(
        slices=1, out_features=width, in_features=width, in_modes=shape.in_modes,
        out_modes=shape.out_modes, ranks=tt_ranks(shape.modes, RANK),
    )  # fmt: skip
    store.fill(**{name: torch.randn_like(v) / 8 for name, v in store.state_dict().items()})
    return store


def low_rank(width: int) -> LowRank:
    """Two factors with a quarter of the matrix's values."""
    store = LowRank(slices=1, out_features=width, in_features=width, rank=width // 8)
    store.fill(**{name: torch.randn_like(v) / 8 for name, v in store.state_dict().items()})
    return store


def chain(store: TTMatrix, x: Tensor) -> Tensor:
    """The published forward: every chunk of tokens through all cores."""
    return torch.cat([store.contract(chunk, 0) for chunk in x.split(CHUNK)])


def seconds(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Best of several for each, in turns, so that a noisy moment of the machine hits all alike."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def extra_bytes(run: Callable[[], Tensor]) -> int:
    """Most bytes held at once during one call, beyond what its result takes."""
    with torch.profiler.profile(profile_memory=True) as profile:
        y = run()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return max(peak - y.numel() * y.element_size(), 0)


if __name__ == "__main__":
    main()
