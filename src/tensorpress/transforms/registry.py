"""Transform name -> module: the one place where a new one is listed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from tensorpress.families.base import Config
from tensorpress.families.table import family_of
from tensorpress.transforms.base import Transform

TRANSFORMS: dict[str, str] = {
    "fold_norms": "tensorpress.transforms.fold_norms",
}


def load(name: str) -> Transform:
    """The transform of a registered name."""
    found: Transform = import_module(TRANSFORMS[name]).TRANSFORM
    return found


def planned(names: Iterable[str], config: Config, where: str) -> dict[str, Any]:
    """The ``config.json`` after transforms, one after the other; ``where`` begins errors."""
    for name in names:
        config = load(name).planned(family_of(config, where), config, f"{where}.transform")
    return dict(config)
