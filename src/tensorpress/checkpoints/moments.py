"""Second moments of module inputs: running sums, and their files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.sites import ANGLE, count_of, gradient_of, site_of
from tensorpress.checkpoints.tensorfile import open_tensors, save_tensors
from tensorpress.files import paths
from tensorpress.files.atomic import replacing


class Moments:
    """Running sums in float64: ``x x^T (in, in)`` per site and slice, with token counts.

    And of the squared gradients ``(out,)`` of the loss by the outputs of each module and slice.
    Nothing is added while it is not ``open``.
    """

    def __init__(self) -> None:
        self.open = True
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._gradients: dict[tuple[str, int], Tensor] = {}
        self._turned: Tensor | float = 0.0
        self._turns = 0

    def clear(self) -> None:
        """Forget all that was added."""
        self._sums.clear()
        self._counts.clear()
        self._gradients.clear()
        self._turned, self._turns = 0.0, 0

    def add(self, site: str, index: int, x: Tensor) -> None:
        """Add activations ``(..., in)`` that reach slice ``index`` of ``site``."""
        if not self.open:
            return
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product, place = rows.mT @ rows, (site, index)
        if place in self._sums:
            self._sums[place] += product
        else:
            self._sums[place] = product.double()
        self._counts[place] += rows.shape[0]

    def add_gradient(self, module: str, index: int, gradient: Tensor) -> None:
        """Add gradients ``(..., out)`` of the loss by outputs of a slice of ``module``."""
        if not self.open:
            return
        rows = gradient.detach().reshape(-1, gradient.shape[-1])
        squares = rows.float().square().sum(0).double()
        place = (module, index)
        self._gradients[place] = self._gradients.get(place, 0.0) + squares

    def add_angles(self, before: Tensor, after: Tensor) -> None:
        """Add the angles between the rows ``(..., hidden)`` of a layer's input and output."""
        if not self.open:
            return
        rows = (before.detach().float(), after.detach().to(before.device).float())
        cosines = torch.nn.functional.cosine_similarity(*rows, dim=-1).clamp(0.0, 1.0)
        self._turned = self._turned + (cosines.arccos() / math.pi).double().sum()
        self._turns += cosines.numel()

    def tensors(self, shape: LayerShape) -> dict[str, Tensor]:
        """``<site>``: E[x x^T] in float32, ``<site>.tokens``: tokens seen, per slice for experts.

        ``layer.angle``: the mean angle between input and output, over pi (FLAT-LLM's importance).
        ``<module>.gradient``: E[g g] of the outputs, where gradients were added. An expert that
        received no token has zero moments. The sums are given up one by one.
        """
        saved: dict[str, Tensor] = {}
        if self._turns:
            saved[ANGLE] = torch.as_tensor(self._turned).cpu() / self._turns
        for site, reader in {site_of(name): name for name in shape.modules}.items():
            module = shape.modules[reader]
            counts = [self._counts[site, i] for i in range(module.slices)]
            means = torch.empty(module.slices, module.in_features, module.in_features)
            for i, count in enumerate(counts):
                means[i] = self._sums.pop((site, i)) / count if count else 0.0
            saved[site] = means if module.slices > 1 else means[0]
            saved[f"{site}.tokens"] = torch.tensor(counts)
        for name, module in shape.modules.items() if self._gradients else ():
            zero = torch.zeros(module.out_features, dtype=torch.float64)
            squares = [
                (self._gradients.get((name, i), zero) / max(count, 1)).float().cpu()
                for i, count in enumerate(saved[f"{site_of(name)}.tokens"].tolist())
            ]
            saved[gradient_of(name)] = torch.stack(squares) if module.slices > 1 else squares[0]
        return saved


def tokens_of(file: Path) -> int:
    """Tokens that the moments of a file were taken over."""
    with open_tensors(file) as opened:
        return int(opened.metadata["tokens"])


def load_moments(file: Path, device: torch.device) -> dict[str, Tensor]:
    """All of a moments file; ``DamagedFile`` if it is not what ``save_moments`` wrote."""
    with open_tensors(file) as opened:
        return {name: opened.read(name).to(device) for name in opened.names}


def expand_sites(sites: Mapping[str, Tensor], modules: Iterable[str]) -> dict[str, Tensor]:
    """What ``InputMoments`` has of modules, from the tensors of a moments file."""
    names = {module: site_of(module) for module in modules}
    names |= {other(m): other(m) for m in names for other in (gradient_of, count_of)}
    return {name: sites[stored] for name, stored in names.items() if stored in sites}


@dataclass(frozen=True)
class InputMoments(Mapping[str, Tensor]):
    """Second moment of each module's inputs, read from a moments file when it is asked for.

    Under ``gradient_of(module)`` there are the squared gradients of its outputs, if they were
    taken, under ``count_of(module)`` the tokens that reached it.
    """

    file: Path
    modules: tuple[str, ...]
    device: torch.device

    def __getitem__(self, name: str) -> Tensor:
        stored = {gradient_of(module): gradient_of(module) for module in self.modules}
        stored |= {module: site_of(module) for module in self.modules}
        stored |= {count_of(module): count_of(module) for module in self.modules}
        with open_tensors(self.file) as opened:
            return opened.read(stored[name]).to(self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


@dataclass(frozen=True)
class NormMoments(Mapping[str, Tensor]):
    """Second moments of what norms hand on, by their paths, each read when it is asked for."""

    file: Path

    def __getitem__(self, norm: str) -> Tensor:
        with open_tensors(self.file) as opened:
            return opened.read(norm)

    def __iter__(self) -> Iterator[str]:
        with open_tensors(self.file) as opened:
            return iter(opened.names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def save_moments(layers: Iterable[dict[str, Tensor]], tokens: int, directory: Path) -> None:
    """Write one safetensors file a layer into ``directory``, with the token count."""
    with replacing(directory) as temporary:
        temporary.mkdir()
        for layer, tensors in enumerate(layers):
            name = paths.moments(temporary, layer)
            save_tensors(tensors, {"tokens": str(tokens)}, name)
