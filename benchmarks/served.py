"""Layers as a model runs them: factored over dense, in bfloat16, by itself, compiled, in a graph.

    python benchmarks/served.py [--size llama-2-7b|small] [--device cuda|cpu] [--json FILE]

One matrix of the FFN and a stack of experts, from a quarter of their values (SVD, Tucker) or as the
study's train, for 1, 16 and 256 tokens. ``graph`` replays calls captured in a CUDA graph, of as
many layers as no cache holds: what a GPU takes, without the host's share of a call. Prints the
machine's own speed of a large product and of a copy, and a Markdown table: the median of several
calls, by events where there is a GPU; ``over dense`` is seconds over those of the dense layer in
the same rows; ``of products`` and ``of copies`` are shares of the machine's speeds that a call
reaches, by the fewest multiply-accumulates and bytes that it needs; ``MiB`` is the most that a call
allocates beside factors and input, and ``error`` that of the product against one in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.evaluation.tasks.speed import machine
from tensorpress.formats.base import Format
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.low_rank import LowRank
from tensorpress.formats.tt_matrix import TTMatrix
from tensorpress.formats.tucker_matrix import TuckerMatrix
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks

Sizes = tuple[int, int, int]
"""Slices, outputs, inputs."""
SIZES: dict[str, dict[str, Sizes]] = {
    "llama-2-7b": {"ffn": (1, 11008, 4096), "experts": (64, 1408, 2048)},
    "small": {"ffn": (1, 352, 128), "experts": (8, 96, 64)},
}
"""Of Llama-2-7B, and of a mixture of many experts."""
TOKENS = (1, 16, 256)
HOW = {"cuda": ("alone", "compiled", "graph"), "cpu": ("alone", "compiled")}
BEYOND = 4 * 60 * 2**20
"""Bytes of layers that no cache holds between two calls: the H200's is of 60 MiB."""
SPEED_SIDE = {"cuda": 8192, "cpu": 512}
REPEATS, WARM = 21, 3
ORDER, RANK = 12, 64


@dataclass(frozen=True)
class Row:
    """One call of one layer."""

    layer: str
    format: str
    tokens: int
    how: str
    seconds: float
    over_dense: float
    of_products: float
    of_copies: float
    mebibytes: float
    error: float


def main() -> None:
    """Print the machine, its speeds and the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SIZES, default="llama-2-7b")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--json", type=Path, help="the same in a file")
    chosen = options.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        options.error("--device: cuda is not allowed; allowed: cpu, for no GPU is visible")
    device = torch.device(chosen.device)
    torch.manual_seed(0)
    with torch.inference_mode():
        products, copies = speeds(device)
        print(f"{machine(device)}; bfloat16: {products / 1e12:.3g} TMAC/s, {copies / 1e9:.4g} GB/s")
        print(f"\n{HEADER}", flush=True)
        rows = []
        for layer, sizes in SIZES[chosen.size].items():
            for tokens in TOKENS:
                for how in HOW[device.type]:
                    for row in measured(layer, sizes, tokens, how, device, products, copies):
                        rows.append(row)
                        print(line(row), flush=True)
    if chosen.json:
        found = {
            "machine": machine(device), "torch": torch.__version__, "size": chosen.size,
            "macs_per_second": products, "bytes_per_second": copies, "rows": [*map(asdict, rows)],
        }  # fmt: skip
        chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


HEADER = """\
| layer | format | tokens | how | microseconds | over dense | of products | of copies | MiB | error |
| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""  # noqa: E501


def line(row: Row) -> str:
    """One line of the table."""
    cells = [
        row.layer, row.format, str(row.tokens), row.how, f"{1e6 * row.seconds:.1f}",
        f"{row.over_dense:.2f}", f"{row.of_products:.1%}", f"{row.of_copies:.1%}",
        f"{row.mebibytes:.1f}", f"{row.error:.1e}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def speeds(device: torch.device) -> tuple[float, float]:
    """Multiply-accumulates a second of a large product, and bytes read and written of a copy."""
    side = SPEED_SIDE[device.type]
    x, y = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    target = torch.empty_like(x)
    product = seconds(lambda: x @ y, device)
    copy = seconds(lambda: target.copy_(x), device)
    return side**3 / product, 2 * x.nbytes / copy


def measured(
    layer: str,
    sizes: Sizes,
    tokens: int,
    how: str,
    device: torch.device,
    products: float,
    copies: float,
) -> Iterator[Row]:
    """Every format of a layer, dense first; experts get equal shares of the tokens."""
    slices, _, inputs = sizes
    x = torch.randn(tokens, inputs, device=device, dtype=torch.bfloat16)
    met = min(slices, tokens)
    shares = [tokens * (s + 1) // slices for s in range(slices)]
    ends = torch.tensor(shares, device=device, dtype=torch.int32)
    dense = 0.0
    for name, store in formats(sizes, device).items():
        call = applied(store, x, ends, how)
        taken = replayed(store, x, ends) if how == "graph" else seconds(call, device)
        dense = dense or taken
        peak = extra_bytes(call, device)
        values = sum(factor.nbytes for factor in store.parameters()) * met // slices
        yield Row(
            layer, name, tokens, how, taken, taken / dense,
            of_products=least_macs(store, tokens) / products / taken,
            of_copies=(values + x.nbytes) / copies / taken,
            mebibytes=peak / 2**20,
            error=error(store, x, ends, call()),
        )  # fmt: skip


def applied(store: Format, x: Tensor, ends: Tensor, how: str) -> Callable[[], Tensor]:
    """The layer on its tokens: those of a slice together where there are several."""

    def call() -> Tensor:
        return store.project(x, 0) if store.slices == 1 else store.project_grouped(x, ends)

    if how == "compiled":
        torch.compiler.reset()  # which counts what it compiles, and gives up
        return torch.compile(call, dynamic=False)
    return call


def replayed(store: Format, x: Tensor, ends: Tensor) -> float:
    """Seconds of a layer among others like it, all of them captured in one graph."""
    size = sum(factor.nbytes for factor in store.parameters())
    calls = [applied(copy.deepcopy(store), x, ends, "alone") for _ in range(1 + BEYOND // size)]
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return seconds(graph.replay, x.device) / len(calls)


def least_macs(store: Format, tokens: int) -> int:
    """Multiply-accumulates of the cheaper way; a train's matrix is rebuilt once for all tokens."""
    if isinstance(store, TTMatrix):
        rebuilt = store.rebuild_macs + tokens * store.dense_macs
        return min(tokens * store.chain_macs, rebuilt)
    return tokens * store.macs()


def formats(sizes: Sizes, device: torch.device) -> Mapping[str, Format]:
    """Layers of random factors in bfloat16, scaled so that outputs are of a size."""
    slices, outputs, inputs = sizes
    same = {"slices": slices, "out_features": outputs, "in_features": inputs}
    rank = outputs * inputs // 4 // (outputs + inputs)
    stores: dict[str, Format] = {
        "dense": DenseSlices(**same),
        "SVD, a quarter": LowRank(**same, rank=rank),
        "Tucker, a quarter": TuckerMatrix(**same, out_rank=rank * 7 // 8, in_rank=rank * 7 // 8),
    }
    if slices == 1:
        shape = TTShape.balanced(outputs, inputs, ORDER)
        ranks = tt_ranks(shape.modes, RANK)
        stores["train of order 12, rank 64"] = TTMatrix(
            **same, in_modes=shape.in_modes, out_modes=shape.out_modes, ranks=ranks
        )
    for store in stores.values():
        drawn = {k: torch.randn_like(v) / v.shape[-1] ** 0.5 for k, v in store.state_dict().items()}
        store.fill(**drawn).to(device, torch.bfloat16)
    return stores


def error(store: Format, x: Tensor, ends: Tensor, y: Tensor) -> float:
    """Relative error of a product against one of the rebuilt matrices in float64."""
    bounds = [0, *ends.tolist()] if store.slices > 1 else [0, len(x)]
    lost = total = 0.0
    for index in range(store.slices):
        some = slice(bounds[index], bounds[index + 1])
        wide = x[some].double() @ store.dense(index).double().mT
        lost += float((y[some].double() - wide).square().sum())
        total += float(wide.square().sum())
    return (lost / total) ** 0.5


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of several calls, after a few that warm caches and compilers up."""
    for _ in range(WARM):
        call()
    taken = []
    for _ in range(REPEATS):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def extra_bytes(call: Callable[[], Tensor], device: torch.device) -> int:
    """Most that a call allocates, its result too; unknown of a CPU, where it is zero."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
