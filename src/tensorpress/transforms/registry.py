"""Transform name -> module: the one place where a new one is listed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from tensorpress.architectures.architecture import Architecture
from tensorpress.transforms.base import Transform

UNKEYED = "a transform is an entry of its own in the keys (identities.py)"

TRANSFORMS: dict[str, str] = {
    "fold_norms": "tensorpress.transforms.fold_norms",
    "slicegpt": "tensorpress.transforms.slicegpt",
}


def spec_class(name: str) -> type[Transform]:
    """The class of a registered name's settings, which does the work too."""
    spec: type[Transform] = import_module(TRANSFORMS[name]).Spec
    return spec


def planned(
    transforms: Iterable[Transform], architecture: Architecture, where: str
) -> Architecture:
    """The architecture after transforms, one after the other; ``where`` begins errors."""
    for transform in transforms:
        architecture = transform.planned(architecture, f"{where}.transform")
    return architecture
