"""Adapters beside linear layers: what recovery has trained and has not merged."""

from __future__ import annotations

from torch import nn

from .base import Format

ADAPTER = "adapter"
"""Name of an adapter in the layer, or in the format, that it is added to."""


def attach(module: nn.Module, adapter: Format) -> None:
    """Add ``adapter``'s output to that of a linear layer, factored or plain, from now on."""
    module.add_module(ADAPTER, adapter)
    module.register_forward_hook(lambda _, inputs, y: y + adapter.project(inputs[0], 0))
