"""Mode shapes of tensor trains: the genetic algorithm of the literature against our search.

    python benchmarks/shapes.py [--size small|full] [--error E] [--checkpoint DIR] [--threads N]

Solgi et al. 2023 ("Tensor shape search for efficient compression of tensorized data and neural
networks") evolve which of its prime factors go into which mode of a tensor that is reshaped in
reading order. Ours searches the mode shapes of a TT-matrix, whose modes are pairs of an input's and
an output's factor. Inputs are an RGB image (matplotlib's sample, rows by columns and colours) and a
weight matrix: one of a checkpoint, ``ffn.up`` of its middle layer, or else a random one of falling
spectrum. All trains keep the same relative error by the same rule of ranks, so that shapes alone
differ. ``own`` is the train of the tensor as it stands: of a matrix, the SVD. ``shapes`` counts
those that were decomposed, ``seconds`` the whole search.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from matplotlib.image import imread
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.linalg.shape_search import search_smallest
from tensorpress.linalg.tensor_train import tt_tensor
from tensorpress.linalg.tt_error import values_within
from tensorpress.linalg.tt_shapes import TTShape, prime_factors

SIZES = {"small": (48, (32, 48)), "full": (192, (256, 768))}
"""Side of the image, and of the random weight."""
ORDER = 5
"""Most modes of the genetic algorithm; factors of one are no mode."""
OUR_ORDERS = (2, 3)
POPULATION, GENERATIONS = 40, 25
PARENTS, MUTATION, CROSSOVER = 0.3, 0.1, 0.5
"""Share of the population that has children, chance of a gene to change and of one to be the other
parent's: those of the author's package."""


@dataclass(frozen=True)
class Searched:
    """The shape of fewest values, how many were decomposed, and how long that took."""

    shape: tuple[int, ...]
    values: int
    tried: int
    seconds: float


def main() -> None:
    """Print one line a search."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SIZES, default="small")
    options.add_argument("--error", type=float, default=0.1)
    options.add_argument("--checkpoint", type=Path, help="folder of a model")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    side, sides = SIZES[chosen.size]
    inputs = {
        "image": image(side),
        "weight": weight_of(chosen.checkpoint) if chosen.checkpoint else falling(*sides),
    }
    table = Table("input", "search", "modes", "values", "of dense", "shapes", "seconds")
    for name, tensor in inputs.items():
        searches: dict[str, Callable[[], Searched]] = {
            "own": lambda t=tensor: own(t, chosen.error),
            "genetic": lambda t=tensor: genetic(t, chosen.error),
        }
        for order in OUR_ORDERS:
            searches[f"ours, order {order}"] = lambda t=tensor, d=order: ours(t, d, chosen.error)
        for search, run in searches.items():
            found = run()
            table.add_row(
                name,
                search,
                " x ".join(map(str, found.shape)),
                f"{found.values}",
                f"{found.values / tensor.numel():.4f}",
                f"{found.tried}",
                f"{found.seconds:.2f}",
            )
    Console(width=120).print(table)


def image(side: int) -> Tensor:
    """A square of matplotlib's sample, ``(side, side, 3)``, of every so many pixels."""
    with get_sample_data("grace_hopper.jpg") as file:
        pixels = np.asarray(imread(file, format="jpg"), dtype=np.float64)
    step = min(pixels.shape[:2]) // side
    return torch.from_numpy(pixels[::step, ::step][:side, :side].copy())


def falling(out_features: int, in_features: int) -> Tensor:
    """A random matrix whose singular values fall as a power."""
    torch.manual_seed(0)
    rank = min(out_features, in_features)
    left = torch.randn(out_features, rank, dtype=torch.float64)
    return (left * torch.arange(1, rank + 1) ** -0.8) @ torch.randn(rank, in_features).double()


def weight_of(folder: Path) -> Tensor:
    """``ffn.up`` of the middle layer of a checkpoint."""
    checkpoint = Checkpoint.open(folder)
    layer = checkpoint.architecture.layers // 2
    return LayerWeights(checkpoint, layer, ("ffn.up",), torch.device("cpu"))["ffn.up"].double()


def own(tensor: Tensor, error: float) -> Searched:
    """The train of the tensor's own modes."""
    start = time.perf_counter()
    values = values_within(tensor[None], error)
    return Searched(tuple(tensor.shape), values, 1, time.perf_counter() - start)


def genetic(tensor: Tensor, error: float, order: int = ORDER, seed: int = 0) -> Searched:
    """The fittest of all generations; a genome says into which mode each prime factor goes."""
    start, chance = time.perf_counter(), random.Random(seed)
    primes = prime_factors(tensor.numel())
    known: dict[tuple[int, ...], int] = {}

    def shape_of(genome: tuple[int, ...]) -> tuple[int, ...]:
        modes = [1] * order
        for prime, mode in zip(primes, genome, strict=True):
            modes[mode] *= prime
        return tuple(mode for mode in modes if mode > 1)

    def values(genome: tuple[int, ...]) -> int:
        shape = shape_of(genome)
        if len(shape) < 2:
            return tensor.numel()
        if shape not in known:
            known[shape] = values_within(tensor.reshape(1, *shape), error)
        return known[shape]

    def child(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        genes = (b if chance.random() < CROSSOVER else a for a, b in zip(one, other, strict=True))
        return tuple(
            chance.randrange(order) if chance.random() < MUTATION else gene for gene in genes
        )

    population = [tuple(chance.choices(range(order), k=len(primes))) for _ in range(POPULATION)]
    for _ in range(GENERATIONS):
        parents = sorted(population, key=values)[: math.ceil(PARENTS * POPULATION)]
        children = (child(*chance.sample(parents, 2)) for _ in range(POPULATION - len(parents)))
        population = [*parents, *children]
    best = min(population, key=values)
    return Searched(shape_of(best), values(best), len(known), time.perf_counter() - start)


def ours(tensor: Tensor, order: int, error: float) -> Searched:
    """Of the tensor as a matrix of its first mode by all others; modes as input by output."""
    start, matrix = time.perf_counter(), tensor.flatten(1)
    tried: set[TTShape] = set()

    def target(shape: TTShape) -> Tensor:
        tried.add(shape)
        return tt_tensor(matrix, shape)[None]

    rows, columns = matrix.shape
    found = search_smallest(target, TTShape.balanced(columns, rows, order), error)
    seconds = time.perf_counter() - start
    return Searched(found.modes, values_within(target(found), error), len(tried), seconds)


if __name__ == "__main__":
    main()
