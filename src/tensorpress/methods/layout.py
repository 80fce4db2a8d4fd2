"""What a method stores for some modules, from shapes alone: a format and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorpress.architectures.layers import ModuleShape

if TYPE_CHECKING:
    from tensorpress.formats.base import Format

RANKED = {
    "rank": "",
    "out_rank": "out_features",
    "in_rank": "in_features",
    "slice_rank": "slices",
}
"""Ranks of nested formats, and the size at which a mode's basis is the identity, if any is."""


@dataclass(frozen=True)
class Layout:
    """What a method will store for ``modules``, known from shapes alone."""

    modules: tuple[str, ...]
    format: str
    settings: dict[str, Any]

    def build(self) -> Format:
        """The empty factors; on the meta device they take no memory."""
        from tensorpress.formats.build import build

        return build(self.format, self.settings)

    @property
    def description(self) -> dict[str, Any]:
        """``{format, settings}``, as a format inside of another one is spelt."""
        return {"format": self.format, "settings": self.settings}

    @property
    def formats(self) -> frozenset[str]:
        """Names of the format and of those inside of it."""
        return frozenset(_formats(self.format, self.settings))

    @property
    def rank_sum(self) -> int:
        """Sum of the ranks of a nested format: the larger, the more it contains."""
        return sum(self.settings.get(name) or 0 for name in RANKED)

    def contains(self, other: Layout) -> bool:
        """Whether every rank of ``other`` is at most that of this one and all else is equal.

        Of a mode that keeps its size the basis is the identity, which orders nothing: its leading
        blocks are no basis of a smaller rank.
        """
        for name, value in self.settings.items():
            theirs = other.settings[name]
            if name not in RANKED or None in (value, theirs):
                if value != theirs:
                    return False
            elif theirs > value or (theirs < value == self.settings.get(RANKED[name])):
                return False
        return self.format == other.format

    def leading(self, larger: Format) -> Format:
        """The format filled with the leading blocks of the factors of ``larger``."""
        own, values = self.build(), larger.state_dict()
        blocks = {
            name: values[name][tuple(slice(side) for side in value.shape)]
            for name, value in own.state_dict().items()
        }
        return own.fill(**blocks)


def _formats(name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    yield name
    for inner in inner_descriptions(settings):
        yield from _formats(inner["format"], inner["settings"])


def inner_descriptions(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Descriptions of the formats inside of a format of these settings, those of a list too."""
    for value in settings.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield each


def sizes_of(shape: ModuleShape) -> dict[str, int]:
    """The sizes that every format takes."""
    return {
        "slices": shape.slices,
        "out_features": shape.out_features,
        "in_features": shape.in_features,
    }
