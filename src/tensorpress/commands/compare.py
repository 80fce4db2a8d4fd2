"""Command ``compare``: two params files, two revisions or two tables beside each other."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.commands.workflow import typed
from tensorpress.config import params
from tensorpress.errors import TensorpressError
from tensorpress.files import paths, yamlfile
from tensorpress.planning.plan import Plan
from tensorpress.report.comparison import Number, Numbers, Setting, numbers, settings
from tensorpress.report.tables import spans

SETTINGS = ("setting", "first", "second")
NUMBERS = (
    "model", "recipe", "layers", "task", "metric", "first", "second", "change", "±", "paired",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What differs; nothing of settings or numbers that a side does not have, which is said."""

    settings: Sequence[Setting] | None
    numbers: Numbers | None
    missing: Sequence[str]


@dataclass(frozen=True)
class _Side:
    """Sections of a params file, and a table; what is missing says ``lacks``."""

    sections: Mapping[str, Any] | None
    table: Path | None
    lacks: str


def compare(first: str, second: str) -> Comparison:
    """What two studies differ in, each named by a params file, a table or a git revision."""
    with ExitStack() as stack:
        one, other = (stack.enter_context(_side(name)) for name in (first, second))
        named = None
        if one.sections is not None and other.sections is not None:
            named = settings(one.sections, other.sections)
        found = None
        if one.table is not None and other.table is not None:
            found = numbers(one.table, other.table, paths.queries())
        missing = list(dict.fromkeys(each.lacks for each in (one, other) if each.lacks))
    return Comparison(named, found, missing)


@contextmanager
def _side(name: str) -> Iterator[_Side]:
    path = Path(name)
    if path.is_dir() or path.suffix == ".parquet":
        table = path / "results.parquet" if path.is_dir() else path
        if not table.is_file():
            raise TensorpressError(f"compare: {table} is missing; allowed: tables of results")
        yield _Side(None, table, f"settings: {name} is a table and has none")
    elif path.is_file():
        plan = Plan(params.load(path))
        made = paths.results_table(plan.table_id)
        hint = f"numbers: {made} of {name} is missing; run {typed(path)} first"
        lacks = "" if made.is_file() else hint
        yield _Side(yamlfile.read(path).values, None if lacks else made, lacks)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _of_revision(name, Path(folder))


def _of_revision(name: str, folder: Path) -> _Side:
    """``params.yaml`` of a commit, and its table where DVC has it."""
    command = ["git", "show", "--end-of-options", f"{name}:./{paths.PARAMS}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise TensorpressError(
            f"compare: {name!r} is not allowed; allowed: a params file, a table of results or its "
            f"folder, or a revision of git with {paths.PARAMS}"
        )
    table = _table_of(name, folder / "results.parquet")
    lacks = "" if table else f"numbers: DVC has no table of {name}; run tensorpress record there"
    written = folder / paths.PARAMS.name
    written.write_text(shown.stdout, encoding="utf-8")
    return _Side(yamlfile.read(written).values, table, lacks)


def _table_of(revision: str, target: Path) -> Path | None:
    """The results that DVC recorded in a commit, copied out of its cache."""
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]

    try:
        tracked = DVCFileSystem(rev=revision)
        live = json.loads(tracked.read_text(str(paths.plan_file("aggregate"))))
        table = next((each for each in live if Path(each).name == target.name), None)
        if table is None:
            return None
        tracked.get_file(table, str(target))
    except (DvcException, OSError, ValueError):
        return None
    return target


def setting_rows(found: Sequence[Setting]) -> list[tuple[object, ...]]:
    """For ``print_table`` under ``SETTINGS``."""
    return [(each.place, _shown(each.first), _shown(each.second)) for each in found]


def number_rows(found: Sequence[Number]) -> list[tuple[object, ...]]:
    """For ``print_table`` under ``NUMBERS``: those that are not the same in both."""
    return [
        (
            each.place.model, each.place.recipe, spans(each.place.layers), each.place.task,
            " ".join(filter(None, (each.place.metric, each.place.statistic, each.place.state))),
            each.first, each.second, each.change, each.half_width, "yes" if each.paired else "",
        )
        for each in found
        if each.first != each.second
    ]  # fmt: skip


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
