"""SliceGPT with one rotation: the residual stream in fewer directions, the same everywhere.

Behind folded norms the stream is read by matrices alone, and a norm without a scale does not see a
rotation. So with an orthonormal ``Q (d, k)`` every writer becomes ``Q^T W``, every reader ``W Q``,
and what is lost is what the stream has outside of k directions: the leading eigenvectors of the
mean second moment of what norms hand on, over all of them (Ashkboos et al. 2024, arXiv 2401.15024,
have a Q for every block and a matrix on every shortcut between two; without these the result is
a plain checkpoint of hidden size k). A norm of width k divides by ``|z|^2 / k`` where the model did
by ``|x|^2 / d``: writers are scaled by ``sqrt(k / d)``, readers by ``sqrt(d / k)``, so that its
epsilon stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.architecture import Architecture
from tensorpress.errors import TensorpressError
from tensorpress.transforms.base import Transform
from tensorpress.transforms.fold_norms import folded, readers

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.checkpoints.checkpoint import Checkpoint

WRITERS = ("attention.o", "ffn.down", "experts.down")
"""Modules whose outputs are added to the residual stream."""


class Spec(Transform):
    """``width``: the new hidden size."""

    reads_stream: ClassVar[bool] = True

    transform: Literal["slicegpt"]
    width: int = Field(ge=1, description="the new hidden size, a multiple of the heads")

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
        own = {
            family.key("hidden"): self.width,
            family.key("head_dim"): shape.head_dim,
            # what tokens are looked up in is rotated for writers, the head for readers
            "tie_word_embeddings": False,
        }
        return Architecture(family, {**architecture.config, **own})

    def tensors(
        self, source: Checkpoint, stream: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        import torch

        from tensorpress.linalg.rotation import leading_directions

        family, size = source.architecture.family, source.architecture.shape(0).hidden_size
        basis = leading_directions(stream.values(), self.width)
        ratio = (self.width / size) ** 0.5
        written, read = (basis * ratio).float(), (basis / ratio).float()
        sides = {reader.weight: _Side(reader.axis, read) for reader in readers(source)}
        sides |= {name: _Side(axis, written) for name, axis in _writers(source)}
        head, final = f"{family.head}.weight", f"{family.final_norm}.weight"
        norms = {f"{reader.norm}.weight" for reader in readers(source)} | {final}
        for name, tensor, dtype in folded(source):
            if name in norms:
                yield name, torch.full((self.width,), family.norm_unit, dtype=dtype)
            elif name in sides:
                yield name, sides[name].of(tensor).to(dtype)
            else:
                yield name, tensor
        if head not in source.files:  # tied: the norm in front of it was not folded
            table = source.read([f"{family.embedding}.weight", final])
            embedding, scale = table[f"{family.embedding}.weight"], table[final].float()
            behind = embedding.float() * (scale + 1 - family.norm_unit)
            yield head, _Side(-1, read).of(behind).to(embedding.dtype)


@dataclass(frozen=True)
class _Side:
    """The axis of a tensor that lies along the stream, and what it is multiplied by there."""

    axis: int
    matrix: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor whose axis is as wide as the new stream, float32."""
        return (tensor.float().movedim(self.axis, -1) @ self.matrix).movedim(-1, self.axis)


def _obstacle(architecture: Architecture) -> str | None:
    """Why the stream of a model cannot be narrowed."""
    family = architecture.family
    if family.attention_norm is not None:
        return "norms stand between its blocks and the stream, and scales do not turn with it"
    if family.norms_have_biases:
        return "its LayerNorms subtract a mean over the stream, which does not turn with it"
    if not family.norms or not family.norms_first(architecture.config):
        return "no norm of it is known to be read by matrices alone"
    if not family.narrows:
        return "its class makes other widths of hidden_size, those of heads or of their norms"
    return None


def _writers(source: Checkpoint) -> Iterator[tuple[str, int]]:
    """Every stored tensor that is added to the stream, biases too, with the axis along it."""
    architecture, family = source.architecture, source.architecture.family
    yield f"{family.embedding}.weight", -1
    for layer in range(architecture.layers):
        shape = architecture.shape(layer)
        found: list[tuple[str, int]] = []
        for module in set(WRITERS) & set(shape.modules):
            stored = architecture.weight_source(layer, module, source.files)
            axis = -1 if family.holds_inputs_first(module) else -2
            found += [(name, axis) for name in stored.names]
        beside = family.writers_beside_experts if shape.group("experts") else ()
        found += [(f"{family.layer_path(layer)}.{path}.weight", -2) for path in beside]
        for name, axis in found:
            yield name, axis
            stem = name.removesuffix(".weight")
            bias = f"{stem}.bias" if stem != name else f"{name}_bias"
            if bias in source.files:
                yield bias, -1
