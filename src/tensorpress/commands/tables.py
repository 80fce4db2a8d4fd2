"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tensorpress.files.numbers import significant

if TYPE_CHECKING:
    from rich.table import Table

_FRAME = 3
"""A line and a blank on either side of what stands in a column."""
_WIDEST = 40
"""What is longer, as a text or the numbers of many layers, goes on in the next line."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under the names of columns, or in a narrow terminal beside them; none in a line.

    A pipe gets them whole, under the names.
    """
    from rich.console import Console

    if not rows:
        print(f"{title}: none")
        return
    # markup is off: what stands in brackets is a list, or a model's own words
    console = Console(markup=False, emoji=False)
    cells = [tuple(map(_cell, row)) for row in rows]
    if not console.is_terminal:
        # a pipe has no width of its own: do not cut columns
        console = Console(width=40 * len(columns), markup=False, emoji=False)
    elif _least_width(columns, cells) > console.width:
        for table in _turned(title, columns, cells, console.width):
            console.print(table)
        return
    console.print(_upright(title, columns, cells))


def _upright(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in cells:
        table.add_row(*row)
    return table


def _least_width(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Of a table that breaks lines between words only."""
    from rich.cells import cell_len

    whole = zip(columns, *cells, strict=True)
    words = ((word for cell in column for word in cell.split()) for column in whole)
    return 1 + sum(_FRAME + max(map(cell_len, column), default=0) for column in words)


def _turned(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> Iterator[Table]:
    """Tables with the names of columns down the side, and beside them as many rows as fit."""
    from rich.cells import cell_len

    names = 1 + _FRAME + max(map(cell_len, columns))
    block: list[Sequence[str]] = []
    used = names
    for row in cells:
        needed = _FRAME + min(_WIDEST, max(map(cell_len, row)))
        if block and used + needed > width:
            yield _side_by_side(title, columns, block)
            block, used = [], names
        block.append(row)
        used += needed
    yield _side_by_side(title, columns, block)


def _side_by_side(title: str, names: Sequence[str], block: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False)
    table.add_column(style="bold")
    for _ in block:
        table.add_column(max_width=_WIDEST, overflow="fold")
    for row in zip(names, *block, strict=True):
        table.add_row(*row)
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return significant(value) if isinstance(value, float) else str(value)
