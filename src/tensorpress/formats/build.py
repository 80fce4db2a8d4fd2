"""The one way from a format's description back to the format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Format
from .table import FORMATS


def build(format: str, settings: Mapping[str, Any]) -> Format:
    """The empty format of a description; under the meta device it takes no memory.

    A setting that is a description itself is a format inside of the format, and is built first.
    """
    built: dict[str, Any] = {
        name: build(**value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
    }
    return FORMATS[format](**built)
