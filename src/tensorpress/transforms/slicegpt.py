"""SliceGPT: the residual stream in fewer directions, the same everywhere or others at every norm.

Behind folded norms the stream is read by matrices alone, and a norm without a scale does not see a
rotation. So with an orthonormal ``Q (d, k)`` every writer becomes ``Q^T W``, every reader ``W Q``,
and what is lost is what the stream has outside of k directions: the leading eigenvectors of the
second moment of what norms hand on. With one Q, of the mean moment of all norms, the result is a
plain checkpoint of hidden size k. Ashkboos et al. (2024, arXiv 2401.15024) have a Q for every norm,
and what passes a block by is multiplied by the ``Q_p^T Q_p'`` of the norms before and behind it
(``rotations: blocks``; as published but for the moments, which they take of the stream itself,
layer by layer of the sliced model, and for the last layer, which may keep its width there). A norm
of width k divides by ``|z|^2 / k`` where the model did by ``|x|^2 / d``: writers are scaled by
``sqrt(k / d)``, readers by ``sqrt(d / k)``, so that its epsilon stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.shortcuts import SHORTCUTS, described, obstacle
from tensorpress.errors import TensorpressError
from tensorpress.methods.approach import Approach
from tensorpress.transforms.base import Transform
from tensorpress.transforms.fold_norms import folded, readers
from tensorpress.transforms.running import as_run

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.checkpoints.checkpoint import Checkpoint

WRITERS = ("attention.o", "ffn.down", "experts.down")
"""Modules whose outputs are added to the residual stream."""


class Spec(Transform):
    """``width``: the new hidden size."""

    approach: ClassVar[Approach] = "pruning"
    reads_stream: ClassVar[bool] = True

    transform: Literal["slicegpt"]
    width: int = Field(ge=1, description="the new hidden size, a multiple of the heads")
    rotations: Literal["one", "blocks"] = Field(
        "one",
        description="one: a plain model; blocks: directions of their own at every norm, and a "
        "matrix on every residual connection between two, as published",
    )

    def planned(self, architecture: Architecture, where: str) -> Architecture:
        family, shape = architecture.family, architecture.shape(0)
        if (reason := _obstacle(architecture)) is not None:
            raise TensorpressError(
                f"{where}: slicegpt is not allowed for this {family.model_type}: {reason}; "
                "allowed: models whose RMS norms are read by matrices alone, as llama"
            )
        if self.width > shape.hidden_size or self.width % shape.heads:
            raise TensorpressError(
                f"{where}: width: {self.width} is not allowed; allowed: multiples of "
                f"{shape.heads}, the heads, up to {shape.hidden_size}"
            )
        own: dict[str, Any] = {
            family.key("hidden"): self.width,
            family.key("head_dim"): shape.head_dim,
            # what tokens are looked up in is rotated for writers, the head for readers
            "tie_word_embeddings": False,
        }
        if self.rotations == "blocks":
            own[SHORTCUTS] = described(architecture, self.width)
        return Architecture(family, {**architecture.config, **own})

    def tensors(
        self, source: Checkpoint, stream: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        found = self._turned_tensors(source, stream)
        return as_run(found, source) if self.rotations == "blocks" else found

    def _turned_tensors(
        self, source: Checkpoint, stream: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        import torch

        architecture, family = source.architecture, source.architecture.family
        points, basis = _points(architecture), self._bases(stream)
        ratio = (self.width / architecture.shape(0).hidden_size) ** 0.5
        read = {reader.weight: (reader.axis, reader.norm) for reader in readers(source)}
        written = {name: (axis, points[point]) for name, axis, point in _writers(source)}
        head, final = f"{family.head}.weight", f"{family.final_norm}.weight"
        for name, tensor, dtype in folded(source):
            path = name.removesuffix(".weight")
            if name in read:
                axis, norm = read[name]
                yield name, _turned(tensor, axis, basis(norm) / ratio).to(dtype)
            elif name in written:
                axis, norm = written[name]
                yield name, _turned(tensor, axis, basis(norm) * ratio).to(dtype)
            elif path in points:
                yield name, torch.full((self.width,), family.norm_unit, dtype=dtype)
            else:
                yield name, tensor
            if self.rotations == "blocks" and path in points[:-1]:
                before = points.index(path)
                turn = basis(path).mT @ basis(points[before + 1])
                owner, kind = family.layer_path(before // 2), ("attention", "ffn")[before % 2]
                turn.diagonal().sub_(1)  # a plain class adds what passes by itself
                yield f"{owner}.{SHORTCUTS}.{kind}.weight", turn.to(dtype)
        if head not in source.files:  # tied: the norm in front of it was not folded
            table = source.read([f"{family.embedding}.weight", final])
            embedding, scale = table[f"{family.embedding}.weight"], table[final].float()
            behind = embedding.float() * (scale + 1 - family.norm_unit)
            last = basis(family.final_norm) / ratio
            yield head, _turned(behind, -1, last).to(embedding.dtype)

    def _bases(self, stream: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
        """Directions ``(d, width)`` of the stream at a norm, by its path, float64.

        Those of a few norms are kept: the tensors of a layer come one after the other.
        """
        from tensorpress.linalg.rotation import leading_directions

        if self.rotations == "one":
            shared = leading_directions(stream.values(), self.width)
            return lambda norm: shared
        return lru_cache(KEPT)(lambda norm: leading_directions([stream[norm]], self.width))


KEPT = 4
"""Norms whose directions are in memory: those that a layer's tensors meet, and the next one."""


def _turned(tensor: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A tensor whose ``axis`` along the stream is multiplied by ``matrix (d, k)``, float32."""
    return (tensor.float().movedim(axis, -1) @ matrix.float()).movedim(-1, axis)


def _points(architecture: Architecture) -> list[str]:
    """Paths of all norms in the order in which the stream meets them."""
    family = architecture.family
    first, second = (each.path for each in family.norms)
    layers = map(family.layer_path, range(architecture.layers))
    own = [f"{layer}.{norm}" for layer in layers for norm in (first, second)]
    return [*own, family.final_norm]


def _obstacle(architecture: Architecture) -> str | None:
    """Why the stream of a model cannot be narrowed."""
    family = architecture.family
    if (reason := obstacle(architecture)) is not None:
        return reason
    if family.attention_norm is not None:
        return "norms stand between its blocks and the stream, and scales do not turn with it"
    if family.norms_have_biases:
        return "its LayerNorms subtract a mean over the stream, which does not turn with it"
    if not family.norms or not family.norms_first(architecture.config):
        return "no norm of it is known to be read by matrices alone"
    if not family.narrows:
        return "its class makes other widths of hidden_size, those of heads or of their norms"
    return None


def _writers(source: Checkpoint) -> Iterator[tuple[str, int, int]]:
    """Every stored tensor that is added to the stream, biases too.

    With the axis along the stream, and the place among ``_points`` of the norm that comes next.
    """
    architecture, family = source.architecture, source.architecture.family
    yield f"{family.embedding}.weight", -1, 0
    for layer in range(architecture.layers):
        shape = architecture.shape(layer)
        found: list[tuple[str, int, int]] = []
        for module in set(WRITERS) & set(shape.modules):
            stored = architecture.weight_source(layer, module, source.files)
            axis = -1 if family.holds_inputs_first(module) else -2
            point = 2 * layer + (1 if module == "attention.o" else 2)
            found += [(name, axis, point) for name in stored.names]
        beside = family.writers_beside_experts if shape.group("experts") else ()
        path = family.layer_path(layer)
        found += [(f"{path}.{linear}.weight", -2, 2 * layer + 2) for linear in beside]
        for name, axis, point in found:
            yield name, axis, point
            stem = name.removesuffix(".weight")
            bias = f"{stem}.bias" if stem != name else f"{name}_bias"
            if bias in source.files:
                yield bias, -1, point
