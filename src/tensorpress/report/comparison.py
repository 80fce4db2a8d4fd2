"""Two studies beside each other: what differs in their settings, and in their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.objectives.registry import quality_metrics
from tensorpress.report.paired import difference
from tensorpress.report.queries import run_query


@dataclass(frozen=True)
class Setting:
    """A value of params that is not the same; ``None`` where it is not set."""

    place: str
    first: Any
    second: Any


@dataclass(frozen=True, order=True)
class Place:
    """What was measured of which run."""

    model: str
    recipe: str
    layer_set: str
    layers: str
    task: str
    metric: str
    statistic: str
    state: str


@dataclass(frozen=True)
class Number:
    """A value of both; ``change`` is of a perplexity in nats per token.

    ``paired``: over the windows or items that both read; otherwise the interval is as if they had
    read different texts. ``half_width``: of the 95 % interval of ``change``, if it is known.
    """

    place: Place
    first: float
    second: float
    change: float
    half_width: float | None
    paired: bool


@dataclass(frozen=True)
class Numbers:
    """Values of both tables, and the places that only one of them has."""

    of_both: Sequence[Number]
    only_first: Sequence[Place]
    only_second: Sequence[Place]


def settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Setting]:
    """Values of two params files that differ, by their dotted places."""
    one, other = dict(_values(first)), dict(_values(second))
    places = [*one, *(place for place in other if place not in one)]
    found = (Setting(place, one.get(place), other.get(place)) for place in places)
    return [each for each in found if each.first != each.second]


def numbers(first: Path, second: Path, queries: Path) -> Numbers:
    """Values of two tables of results, bits saved among them."""
    one, other = _measured(first, queries), _measured(second, queries)
    both = sorted(one.keys() & other.keys())
    return Numbers(
        [_number(place, one[place], other[place]) for place in both],
        sorted(one.keys() - other.keys()),
        sorted(other.keys() - one.keys()),
    )


@dataclass(frozen=True)
class _Measured:
    value: float
    half_width: float | None
    protocol: str
    observations: Sequence[float] | None
    seeds_half_width: float | None


BITS_SAVED = "bits_saved_percent"
"""The metric of what is no task's."""


def _values(section: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(section, Mapping) and section:
        for name, value in section.items():
            yield from _values(value, f"{place}.{name}" if place else str(name))
    else:
        yield place, section


def _measured(table: Path, queries: Path) -> dict[Place, _Measured]:
    tables = {"results": table}
    columns = "model, recipe, layer_set, layers, task, metric"
    rows = run_query("run_metrics", tables, queries).project(
        f"{columns}, coalesce(statistic, ''), coalesce(state, ''), value, half_width, protocol"
    )
    listed = run_query("observations", tables, queries).project(
        f"{columns}, protocol, observations, seeds_half_width"
    )
    observed = {tuple(row[:7]): row[7:] for row in listed.fetchall()}
    found = {}
    for row in rows.fetchall():
        value, half_width, protocol = row[8:]
        # what a value is made of is kept once, not for every statistic of it
        seen = observed.get((*row[:6], protocol)) if row[6:8] == ("", "") else None
        found[Place(*row[:8])] = _Measured(value, half_width, protocol, *(seen or (None, None)))
    saved = run_query("every_run", tables, queries).project(
        f"model, recipe, layer_set, layers, {BITS_SAVED}"
    )
    for row in saved.fetchall():
        place = Place(*(*row[:4], "", BITS_SAVED, "", ""))
        found[place] = _Measured(row[4], None, "", None, None)
    return found


def _number(place: Place, one: _Measured, other: _Measured) -> Number:
    same = one.protocol == other.protocol
    found = difference(one.observations, other.observations) if same else None
    if found is not None:
        seeds = [each.seeds_half_width or 0.0 for each in (one, other)]
        half_width: float | None = math.hypot(found.half_width, *seeds)
        return Number(place, one.value, other.value, found.mean, half_width, True)
    widths = [one.half_width, other.half_width]
    if place.metric in quality_metrics():
        change = math.log(other.value / one.value)
        widths = [w and w / each.value for w, each in zip(widths, (one, other), strict=True)]
    else:
        change = other.value - one.value
    known = [width for width in widths if width is not None]
    half_width = math.hypot(*known) if len(known) == len(widths) else None
    return Number(place, one.value, other.value, change, half_width, False)
