"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence

from tensorpress.files.numbers import significant


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under the names of columns; a pipe gets them whole, a terminal as they fit."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # a pipe has no width of its own: do not cut columns
        console = Console(width=40 * max(len(columns), 1))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(_cell, row))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return significant(value) if isinstance(value, float) else str(value)
