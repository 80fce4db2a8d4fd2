"""Super weights: single entries of ``ffn.down`` that a model cannot do without.

Yu et al. 2024 (arXiv 2411.07191): at some token one huge input channel of ``ffn.down`` meets one
huge weight and makes a huge output, which the residual stream carries through the model. Found by
forward passes on any prompt; how well a decomposition restores such entries is ``restoration``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.published import DOWN, SuperWeight
from tensorpress.checkpoints.loading import matrices
from tensorpress.errors import TensorpressError


@dataclass(frozen=True)
class Peak:
    """The largest input and output of one layer's ``ffn.down`` at the same token.

    Of all tokens it is the one at which the smaller of the two magnitudes is largest.
    """

    place: SuperWeight
    input: float
    output: float

    @property
    def height(self) -> float:
        """The smaller magnitude: above a threshold if and only if both are."""
        return min(abs(self.input), abs(self.output))


@dataclass(frozen=True)
class Search:
    """What the finder saw: super weights in the order found, and every layer's first peak.

    ``complete`` is false where more were left after the last iteration.
    """

    found: tuple[Peak, ...]
    peaks: tuple[Peak, ...]
    complete: bool


def find_super_weights(
    model: PreTrainedModel,
    architecture: Architecture,
    ids: Int[Tensor, "1 tokens"],
    threshold: float,
    iterations: int,
) -> Search:
    """Super weights of a model, at most ``iterations`` of them; layers of experts have none.

    Each forward pass adds the first layer's peak that exceeds ``threshold`` and is then repeated
    without that weight: later peaks may be its consequence, never its cause.
    """
    found: list[Peak] = []
    peaks = seen = layer_peaks(model, architecture, ids)
    while above := [peak for peak in seen if peak.height > threshold]:
        if len(found) == iterations:
            break
        found.append(above[0])
        seen = layer_peaks(model, architecture, ids, [peak.place for peak in found])
    return Search(tuple(found), tuple(peaks), complete=not above)


def down_layers(architecture: Architecture) -> list[int]:
    """Layers that have an ``ffn.down``: all but those of experts."""
    return [
        layer for layer in range(architecture.layers) if DOWN in architecture.shape(layer).modules
    ]


def layer_peaks(
    model: PreTrainedModel,
    architecture: Architecture,
    ids: Int[Tensor, "1 tokens"],
    zeroed: Sequence[SuperWeight] = (),
) -> list[Peak]:
    """Peak of each layer that has an ``ffn.down``, in one forward pass without some weights.

    What a weight of ``zeroed`` contributes is taken off the output of its layer: the model's
    tensors are never written, so that there is nothing to restore, not even after an error.
    """
    peaks: dict[int, Peak] = {}
    hooks = []
    try:
        for layer in down_layers(architecture):
            gone = {p: entry(model, architecture, p) for p in zeroed if p.layer == layer}
            linear = model.get_submodule(architecture.family.linear_path(layer, DOWN))
            hooks.append(linear.register_forward_hook(_recorder(peaks, layer, gone)))
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [peaks[layer] for layer in sorted(peaks)]


def _recorder(
    peaks: dict[int, Peak], layer: int, gone: dict[SuperWeight, float]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].flatten(0, -2)
        y = output.flatten(0, -2).clone()
        for place, value in gone.items():
            y[:, place.row] -= value * x[:, place.column]
        if not bool(torch.isfinite(y).all()):
            raise TensorpressError(f"layer {layer}: {DOWN} gives values that are not finite")
        rows = y.abs().argmax(1)
        reaching = x.abs()
        for place in gone:  # no longer connects its input to its output
            reaching[rows == place.row, place.column] = 0
        heights = torch.minimum(reaching.amax(1), y.abs().amax(1))
        token = int(heights.argmax())
        row, column = int(rows[token]), int(reaching[token].argmax())
        place = SuperWeight(layer=layer, row=row, column=column)
        peaks[layer] = Peak(place, float(x[token, column]), float(y[token, row]))
        return y.view_as(output)

    return record


def entry(model: PreTrainedModel, architecture: Architecture, place: SuperWeight) -> float:
    """The value of one entry of ``ffn.down``."""
    return float(matrices(model, architecture, place.layer, DOWN)[0, place.row, place.column])


def largest_entry(matrix: Float[Tensor, "out in"], layer: int) -> SuperWeight:
    """The coordinates of the entry of largest magnitude of a layer's ``ffn.down``."""
    row, column = divmod(int(matrix.abs().argmax()), matrix.shape[1])
    return SuperWeight(layer=layer, row=row, column=column)


@dataclass(frozen=True)
class Restoration:
    """Errors of a rebuilt matrix at some of its entries.

    ``absolute_error`` is the mean of ``|W' - W|``; ``relative_error`` the norm of ``W' - W`` over
    the norm of ``W`` at these entries: 1 where they are lost.
    """

    entries: int
    absolute_error: float
    relative_error: float


def restoration(
    weight: Float[Tensor, "slices out in"],
    rebuilt: Float[Tensor, "slices out in"],
    entries: Int[Tensor, " n"],
) -> Restoration:
    """Errors at ``entries``, positions in the flattened stack, in float64."""
    true = weight.flatten()[entries].double()
    difference = rebuilt.flatten()[entries].double() - true
    norm = float(true.norm())
    return Restoration(
        entries=len(entries),
        absolute_error=float(difference.abs().mean()),
        relative_error=float(difference.norm()) / norm if norm else 0.0,
    )


def watched_entries(
    weight: Float[Tensor, "slices out in"],
    super_weights: Sequence[tuple[int, int]],
    count: int,
    seed: int,
) -> dict[str, Int[Tensor, " n"]]:
    """Positions in the flattened stack of the entries to watch, by kind.

    ``super_weights``: the given (row, column) of every slice, left out if there are none;
    ``next_N``: the N largest other entries; ``random_N``: N distinct ones drawn from all. Matrices
    of fewer entries give fewer.
    """
    slices, out_features, in_features = weight.shape
    given = [
        (index * out_features + row) * in_features + column
        for index in range(slices)
        for row, column in super_weights
    ]
    magnitudes = weight.abs().flatten()
    magnitudes[given] = -1
    there = min(count, weight.numel() - len(given))
    drawn = random.Random(seed).sample(range(weight.numel()), there)
    entries = {
        f"next_{count}": magnitudes.topk(there).indices,
        f"random_{count}": torch.tensor(drawn, device=weight.device),
    }
    if given:
        entries = {"super_weights": torch.tensor(given, device=weight.device)} | entries
    return entries


def block_maxima(matrix: Float[Tensor, "out in"], blocks: int) -> dict[tuple[int, int], float]:
    """Largest magnitude in each block of a grid of at most ``blocks`` by ``blocks``.

    Keys are the first row and column of the blocks.
    """
    rows, columns = (math.ceil(size / blocks) for size in matrix.shape)
    maxima = nn.functional.max_pool2d(matrix.abs()[None], (rows, columns), ceil_mode=True)[0]
    return {
        (i * rows, j * columns): value
        for i, line in enumerate(maxima.tolist())
        for j, value in enumerate(line)
    }


def magnitudes_near(
    matrix: Float[Tensor, "out in"], row: int, column: int, radius: int
) -> dict[tuple[int, int], float]:
    """Magnitudes of the entries at most ``radius`` rows and columns away, by (row, column)."""
    top, left = max(row - radius, 0), max(column - radius, 0)
    near = matrix[top : row + radius + 1, left : column + radius + 1].abs()
    return {
        (top + i, left + j): value
        for i, line in enumerate(near.tolist())
        for j, value in enumerate(line)
    }
