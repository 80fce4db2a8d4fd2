"""The interface of a factor format: S matrices ``(out, in)`` represented by shared factors.

The files of this folder import only torch and each other (relatively), because ``assembly`` copies
them into each compressed checkpoint, where plain ``transformers`` loads them as remote code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

STORES = "tensorpress"
"""Submodule of a layer that owns the layer's factors, and key of the plan in config.json."""


class Format(nn.Module):
    """Factors of ``slices`` matrices of shape ``(out_features, in_features)``.

    The parameters are the stored factors: their shapes alone decide the bits, and ``settings``
    (JSON values) is what a loader needs to build the module empty. A format is applied to
    activations in factored form by ``project``; ``dense`` rebuilds one matrix.
    """

    name: ClassVar[str]

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

    def project(self, x: Tensor, index: int) -> Tensor:
        """``W_index x`` for activations ``(..., in)`` -> ``(..., out)``, without forming ``W``."""
        raise TypeError(f"{type(self).__name__} does not define project")

    def dense(self, index: int) -> Tensor:
        """Matrix ``index`` rebuilt, shape ``(out, in)``."""
        raise TypeError(f"{type(self).__name__} does not define dense")

    def rows(self, ids: Tensor, index: int) -> Tensor:
        """Rows ``ids (n,)`` of matrix ``index``, shape ``(n, in)``: an embedding's lookup."""
        return self.dense(index)[ids]

    def products(self) -> int:
        """Multiplications that applying one matrix to one token takes, for planning."""
        return sum(value.numel() for value in self.parameters()) // max(self.slices, 1)

    def rebuilt(self) -> int:
        """Values of the largest matrix that ``project`` may rebuild for a moment; mostly none."""
        return 0

    def matrix_shape(self, index: int) -> tuple[int, int]:
        """``(out, in)`` of matrix ``index``."""
        return self.out_features, self.in_features

    def factor(self, name: str, shape: tuple[int, ...]) -> None:
        """Register an uninitialised factor; ``fill`` or a checkpoint gives it values."""
        self.register_parameter(name, nn.Parameter(torch.empty(shape), requires_grad=False))

    def fill(self, **values: Tensor) -> Format:
        """Set the values of all of ``state_dict`` (shape-checked) and return the module."""
        own = self.state_dict()
        if own.keys() != values.keys():
            raise ValueError(f"{self.name}: factors {sorted(own)} != {sorted(values)}")
        for name, value in values.items():
            if own[name].shape != value.shape:
                raise ValueError(f"{self.name}.{name}: {value.shape} != {tuple(own[name].shape)}")
            path, _, leaf = name.rpartition(".")
            owner = self.get_submodule(path)
            if leaf in dict(owner.named_parameters(recurse=False)):
                value = nn.Parameter(value.detach().clone(), requires_grad=False)
            setattr(owner, leaf, value)
        return self
