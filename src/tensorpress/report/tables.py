"""Tables as HTML: numbers for reading, heads that sort, cells that may lead somewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tensorpress.files import numbers
from tensorpress.files.numbers import number

EXACT = ("_bytes", "_bits", "_mb")
"""Ends of columns that are never shown in powers of ten."""


def table_html(frame: pd.DataFrame, digits: int = 3, links: Sequence[str] = ()) -> str:
    """A frame as a sortable table: words to the left, numbers to the right, nothing for missing.

    ``links``: where the first cell of every row leads.
    """
    shown = frame.copy()
    wordy = []
    for column in shown.columns:
        words = not pd.api.types.is_numeric_dtype(shown[column])
        wordy.append(words or pd.api.types.is_bool_dtype(shown[column]))
        is_span = column == "layers" or column.endswith("_layers")
        is_exact = column.endswith(EXACT)
        shown[column] = [
            _cell(value, digits, is_span and words, is_exact) for value in shown[column]
        ]
    # a browser breaks lines at spaces, not at underscores, and long column names must break
    heads = [f"{_cells('th', [c.replace('_', ' ') for c in shown.columns], wordy)}"]
    rows = [_cells("td", values, wordy) for values in shown.itertuples(index=False)]
    if links:
        rows = [_led(row, where) for row, where in zip(rows, links, strict=True)]
    # what scrolls must be reached by keys, and have a name
    name = html.escape(f"table by {shown.columns[0]}".replace("_", " "))
    return (
        f'<div class="page wide" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="sortable"><thead>{"".join(heads)}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def spans(layers: str) -> str:
    """Comma-separated layers with ranges: ``0,1,2,5`` as ``0-2, 5``."""
    return numbers.spans([int(layer) for layer in layers.split(",") if layer])


def _cell(value: Any, digits: int, is_span: bool, is_exact: bool) -> str:
    if pd.isna(value):
        return ""
    if is_span:
        return spans(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if is_exact and not isinstance(value, str):
        return f"{value:,.0f}"
    return number(value, digits) if isinstance(value, float) else str(value)


def _led(row: str, where: str) -> str:
    """A row of cells whose first is a link."""
    first, rest = row.split("</td>", 1)
    start, text = first.rsplit(">", 1)
    return f'{start}><a href="{html.escape(where)}">{text}</a></td>{rest}'


def _cells(tag: str, values: Any, wordy: list[bool]) -> str:
    start = '<th tabindex="0" scope="col"' if tag == "th" else "<td"
    kinds = [' class="words"' if words else "" for words in wordy]
    # names that are joined may break where they are
    written = (html.escape(value).replace("+", "+<wbr>") for value in values)
    cells = (f"{start}{k}>{value}</{tag}>" for k, value in zip(kinds, written, strict=True))
    return f"<tr>{''.join(cells)}</tr>"
