"""Second moments of module inputs: running sums, and their files.

Modules that read the same activations (q, k and v; gate and up) share one moment, kept under
the first of them, its *site*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tensorpress import paths
from tensorpress.atomic import replacing
from tensorpress.layers import LayerShape

SITES = {
    "attention.q": ("attention.q", "attention.k", "attention.v"),
    "attention.o": ("attention.o",),
    "ffn.gate": ("ffn.gate", "ffn.up"),
    "ffn.down": ("ffn.down",),
    "experts.gate": ("experts.gate", "experts.up"),
    "experts.down": ("experts.down",),
}
"""Site -> modules that read its activations; without a gate, ``ffn.gate`` names up's input."""


def site_of(module: str) -> str:
    """The site whose moment is that of the inputs of ``module``."""
    return next(site for site, readers in SITES.items() if module in readers)


class Moments:
    """Running sums of ``x x^T`` in float64: ``(in, in)`` per site and slice, with token counts."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)

    def add(self, site: str, index: int, x: Tensor) -> None:
        """Add activations ``(..., in)`` that reach slice ``index`` of ``site``."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product = (rows.mT @ rows).double()
        place = (site, index)
        self._sums[place] = self._sums[place] + product if place in self._sums else product
        self._counts[place] += rows.shape[0]

    def tensors(self, shape: LayerShape) -> dict[str, Tensor]:
        """``<site>``: E[x x^T] in float32, ``<site>.tokens``: tokens seen, per slice for experts.

        An expert that received no token has a zero moment.
        """
        saved: dict[str, Tensor] = {}
        for site, reader in {site_of(name): name for name in shape.modules}.items():
            module = shape.modules[reader]
            zero = torch.zeros(module.in_features, module.in_features, dtype=torch.float64)
            counts = [self._counts[site, i] for i in range(module.slices)]
            means = [
                (self._sums.get((site, i), zero) / max(count, 1)).float().cpu()
                for i, count in enumerate(counts)
            ]
            saved[site] = torch.stack(means) if module.slices > 1 else means[0]
            saved[f"{site}.tokens"] = torch.tensor(counts)
        return saved


def expand_sites(sites: dict[str, Tensor], modules: Iterable[str]) -> dict[str, Tensor]:
    """Second moment of each module's inputs, from the per-site tensors of a moments file."""
    return {module: sites[site_of(module)] for module in modules}


def save_moments(layers: list[dict[str, Tensor]], tokens: int, directory: Path) -> None:
    """Write one safetensors file a layer into ``directory``, with the token count."""
    with replacing(directory) as temporary:
        temporary.mkdir()
        for layer, tensors in enumerate(layers):
            name = paths.moments(temporary, layer)
            save_file(tensors, name, metadata={"tokens": str(tokens)})
