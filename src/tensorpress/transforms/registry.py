"""Transform name -> module: the one place where a new one is listed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from tensorpress.architectures.architecture import Architecture
from tensorpress.transforms.base import Transform

UNKEYED = "a transform is an entry of its own in the keys (identities.py)"

TRANSFORMS: dict[str, str] = {
    "fold_norms": "tensorpress.transforms.fold_norms",
}


def load(name: str) -> Transform:
    """The transform of a registered name."""
    found: Transform = import_module(TRANSFORMS[name]).TRANSFORM
    return found


def planned(names: Iterable[str], architecture: Architecture, where: str) -> Architecture:
    """The architecture after transforms, one after the other; ``where`` begins errors."""
    for name in names:
        architecture = load(name).planned(architecture, f"{where}.transform")
    return architecture
