"""The one way from a format's description back to the format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Format
from .table import FORMATS


def build(format: str, settings: Mapping[str, Any]) -> Format:
    """The empty format of a description; under the meta device it takes no memory.

    A setting that is a description itself is a format inside of the format, and is built first; so
    are those of a list.
    """
    return FORMATS[format](**{name: _built(value) for name, value in settings.items()})


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(**value)
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return [_built(each) for each in value]
    return value
