"""The interface of a factor format: S matrices ``(out, in)`` represented by shared factors.

The files of this folder import only torch and each other (relatively), because ``bundle`` copies
them into each compressed checkpoint, where plain ``transformers`` loads them as remote code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .grouped import grouped_linear

STORES = "tensorpress"
"""Submodule of a layer that owns the layer's factors, and key of the plan in config.json."""


class Format(nn.Module):
    """Factors of ``slices`` matrices of shape ``(out_features, in_features)``.

    The parameters are the stored factors: their shapes alone decide the bits, and ``settings``
    (JSON values) is what ``build`` needs to make the module empty. A format that holds others is
    given them built, and has their descriptions among its settings. A format is applied to
    activations in factored form by ``project``; ``dense`` rebuilds one matrix.
    """

    name: ClassVar[str]

    exact: ClassVar[tuple[str, ...]] = ()
    """How the names of factors begin that rounding must leave as they are."""

    def __init__(self, *, slices: int, out_features: int, in_features: int, **extra: Any) -> None:
        super().__init__()
        self.slices = slices
        self.out_features = out_features
        self.in_features = in_features
        self.settings: dict[str, Any] = {
            "slices": slices,
            "out_features": out_features,
            "in_features": in_features,
            **extra,
        }

    @property
    def description(self) -> dict[str, Any]:
        """``{format, settings}``: how files and configs spell the format, for ``build``."""
        return {"format": self.name, "settings": self.settings}

    def project(self, x: Tensor, index: int) -> Tensor:
        """``W_index x`` for activations ``(..., in)`` -> ``(..., out)``, without forming ``W``."""
        raise TypeError(f"{type(self).__name__} does not define project")

    def dense(self, index: int) -> Tensor:
        """Matrix ``index`` rebuilt, shape ``(out, in)``."""
        raise TypeError(f"{type(self).__name__} does not define dense")

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        """Rows ``x (n, in)``, sorted by matrix, each through its own -> ``(n, out)``.

        ``ends (S,)``, int32, says where the rows of each matrix end. Matrices have equal shapes.
        """
        if torch.compiler.is_compiling():
            # no size in a graph may depend on the routing, so a loop over slices cannot be in one
            return grouped_linear(x, self.stacked(), ends)
        counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
        parts = [(rows, s) for s, rows in enumerate(x.split(counts)) if counts[s]]
        return torch.cat([self.project(rows, s) for rows, s in parts or [(x, 0)]])

    def stacked(self) -> Tensor:
        """All matrices rebuilt, shape ``(S, out, in)``."""
        return torch.stack([self.dense(index) for index in range(self.slices)])

    def rows(self, ids: Tensor, index: int) -> Tensor:
        """Rows ``ids (n,)`` of matrix ``index``, shape ``(n, in)``: an embedding's lookup."""
        return self.dense(index)[ids]

    def macs(self) -> int:
        """Multiply-accumulates (MACs) of applying one matrix to one token, for planning."""
        return sum(value.numel() for value in self.parameters()) // max(self.slices, 1)

    def peak_rebuilt_values(self) -> int:
        """Values of the largest matrix that ``project`` may rebuild for a moment; mostly 0."""
        return 0

    def matrix_shape(self, index: int) -> tuple[int, int]:
        """``(out, in)`` of matrix ``index``."""
        return self.out_features, self.in_features

    def runs(self, index: int) -> tuple[Format, int]:
        """What a layer multiplies by for matrix ``index``, a format and its slice: mostly itself.

        A format that leaves the same rows of some modules and columns of others out runs what is
        left, so that the layer is narrower inside; all modules of the group must then be so held.
        """
        return self, index

    def packed(self) -> dict[str, tuple[int, int]]:
        """Buffers that hold packed whole numbers: how many, and the bits of each."""
        inner = ((path, each) for path, each in self.named_children() if isinstance(each, Format))
        return {f"{path}.{n}": size for path, each in inner for n, size in each.packed().items()}

    def widened(self, y: Tensor, index: int) -> Tensor:
        """Outputs ``(..., out)`` of matrix ``index`` from those of what ``runs`` gives for it."""
        return y

    def restored(self, matrix: Tensor, index: int) -> Tensor:
        """A matrix of the size of what ``runs`` gives, at the size of matrix ``index``."""
        return matrix

    def factor(self, name: str, shape: tuple[int, ...]) -> None:
        """Register an uninitialised factor; ``fill`` or a checkpoint gives it values."""
        self.register_parameter(name, nn.Parameter(torch.empty(shape), requires_grad=False))

    def fill(self, **values: Tensor) -> Format:
        """Set the values of all of ``state_dict`` (shape-checked) and return the module.

        Tensors become the module's own; of a part of a larger one a copy does. ``ValueError`` if a
        factor is missing, unknown or of another shape.
        """
        own = self.state_dict()
        if own.keys() != values.keys():
            raise ValueError(f"{self.name}: factors {sorted(own)} != {sorted(values)}")
        for name, value in values.items():
            if own[name].shape != value.shape:
                raise ValueError(f"{self.name}.{name}: {value.shape} != {tuple(own[name].shape)}")
            path, _, leaf = name.rpartition(".")
            owner = self.get_submodule(path)
            if leaf in dict(owner.named_parameters(recurse=False)):
                whole = value.nbytes == value.untyped_storage().nbytes() and value.is_contiguous()
                value = value.detach() if whole else value.detach().clone()
                value = nn.Parameter(value, requires_grad=False)
            setattr(owner, leaf, value)
        return self
