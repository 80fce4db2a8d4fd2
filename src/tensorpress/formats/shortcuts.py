"""Residual connections with matrices: ``x -> x S + block(norm(x))`` in place of ``x + ...``.

SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024) has the stream in another basis behind every
block. A plain class adds x itself, so that the block's output is given ``x (S - I)`` more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Shortcut(nn.Module):
    """``weight (k, k)``: ``S - I`` of one residual connection.

    Between the norm, where the stream comes by, and the block's output it holds the stream.
    """

    residual: Tensor | None = None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width), requires_grad=False)

    def across(self, norm: nn.Module, block: nn.Module) -> None:
        """From now on what passes ``norm`` and ``block`` by is turned."""
        norm.register_forward_pre_hook(self._keep)
        block.register_forward_hook(self._turn)

    def _keep(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.residual = inputs[0]

    def _turn(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        residual, self.residual = self.residual, None
        assert residual is not None, "the norm stands in front of the block"
        more = residual @ self.weight
        if isinstance(output, tuple):  # attention weights, or what a router said, beside it
            return (output[0] + more, *output[1:])
        return output + more


class ShortcutMixin:
    """Adds the shortcuts after the base class has built its layers, before weights are loaded."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        add_shortcuts(self, config.shortcuts)  # type: ignore[arg-type]


def add_shortcuts(model: nn.Module, described: dict[str, Any]) -> None:
    """Give every layer its two empty matrices.

    ``described``: ``width``, the path ``layers`` of the list of them, and for ``attention`` and
    ``ffn`` the paths of norm and block within a layer.
    """
    for layer in model.get_submodule(described["layers"]).children():
        own = nn.ModuleDict({n: Shortcut(described["width"]) for n in ("attention", "ffn")})
        for name, shortcut in own.items():
            norm, block = (layer.get_submodule(path) for path in described[name])
            shortcut.across(norm, block)  # type: ignore[operator]
        layer.add_module("shortcuts", own)


class SlicedConfigMixin:
    """Reads a ``config.json`` whose type is none of transformers', as that of its base class."""

    model_type: str

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As any config's, with the type that the class has."""
        found, rest = super().get_config_dict(*args, **kwargs)  # type: ignore[misc]
        return {**found, "model_type": cls.model_type}, rest


def sliced_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of models of ``base`` with shortcuts, with a config type of its own."""
    config: type[PreTrainedConfig] = base.config_class  # type: ignore[assignment]
    own_config = type(f"Sliced{config.__name__}", (SlicedConfigMixin, config), {})
    members = {"config_class": own_config, "__module__": __name__}
    return type(f"Sliced{base.__name__}", (ShortcutMixin, base), members)
