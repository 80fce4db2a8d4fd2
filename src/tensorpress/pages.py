"""What all notebooks share: queries of one model, text, sortable tables, figures as pictures.

A notebook's set-up is ``page = Page(model, task, results, decompositions, queries)``, with ``jobs``
in the end where it shows what the run cost.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure

from tensorpress import numbers
from tensorpress.numbers import number
from tensorpress.reporting import run_query

STYLE = """
body { max-width: 1120px; margin: 0 auto !important; }
.jp-RenderedMarkdown, .jp-RenderedHTML { padding-left: 0 !important; }
.page, .jp-RenderedMarkdown { font-size: 15px; line-height: 1.5; }
.page .lead { font-size: 18px; font-weight: 600; }
.page figure { margin: 8px 0 16px; break-inside: avoid; }
.page figure img { max-width: 100%; height: auto; }
.page figcaption { color: #555; font-size: 13px; }
.page .wide { overflow-x: auto; }
.page table.sortable { font-size: 13px; margin: 0; table-layout: auto; }
.page table.sortable th, .page table.sortable td { padding: 4px 6px; }
.page table.sortable th { cursor: pointer; text-align: right; vertical-align: bottom; }
.page table.sortable th[aria-sort=ascending]::after { content: " ▲"; }
.page table.sortable th[aria-sort=descending]::after { content: " ▼"; }
.page table.sortable td { text-align: right; }
.page table.sortable .words { text-align: left; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { max-width: none; padding: 0; }
  .jp-OutputArea-child { break-inside: auto !important; display: block !important; }
  .jp-OutputArea-output, .jp-Cell { padding: 0 !important; }
  .jp-MarkdownCell { break-after: avoid; }
  .jp-RenderedMarkdown { font-size: 12px; }
  .page { font-size: 12px; line-height: 1.35; }
  .page .lead { font-size: 14px; }
  h1, h2, h3 { break-after: avoid; }
  .page figure img { max-height: 145mm; }
  .page .wide { overflow: visible; }
  .page table.sortable { font-size: 8.5px; width: 100%; }
  .page table.sortable th, .page table.sortable td {
    padding: 2px 3px; white-space: normal; overflow-wrap: break-word;
  }
  .page table.sortable thead { display: table-header-group; }
  .page table.sortable tr { break-inside: avoid; }
}
"""

SCRIPT = """
function sortTable(event) {
  const head = event.target.closest("table.sortable th");
  if (!head || (event.key && event.key !== "Enter")) return;
  const down = head.getAttribute("aria-sort") === "ascending";
  const text = row => row.cells[head.cellIndex].textContent
    .replace(/,(?=\\d{3})/g, "").replace("·10^", "e").trim();
  const compare = (a, b) => {
    if (!text(a) || !text(b)) return !text(a) - !text(b);
    const difference = parseFloat(text(a)) - parseFloat(text(b));
    const order = isNaN(difference) ? text(a).localeCompare(text(b)) : difference;
    return down ? -order : order;
  };
  head.parentNode.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  body.append(...[...body.rows].sort(compare));
}
document.addEventListener("click", sortTable);
document.addEventListener("keydown", sortTable);
"""


EXACT = ("_bytes", "_mb")
"""Ends of columns that are never shown in powers of ten."""


class Page:
    """One model's results, for display by the notebook of one report."""

    def __init__(
        self,
        model: str,
        task: str,
        results: str,
        decompositions: str,
        queries: str,
        jobs: str | None = None,
    ) -> None:
        self.model = model
        self.task = task
        self._tables = {"results": Path(results), "decompositions": Path(decompositions)}
        if jobs:
            self._tables["jobs"] = Path(jobs)
        self._queries = Path(queries)
        plt.rcParams.update(
            {
                "font.size": 11,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "legend.frameon": False,
                "svg.hashsalt": "tensorpress",  # equal pages have equal bytes
            }
        )
        display(HTML(f"<style>{STYLE}</style><script>{SCRIPT}</script>"))

    def query(self, name: str, **equal: Any) -> pd.DataFrame:
        """Rows of ``queries/<name>.sql`` of this model, and with the values given by column.

        The columns that this fixes are left out.
        """
        frame = self.whole(name)
        for column, value in {"model": self.model, **equal}.items():
            frame = frame[frame[column] == value]
        return frame.drop(columns=["model", *equal]).reset_index(drop=True)

    def whole(self, name: str) -> pd.DataFrame:
        """Rows of ``queries/<name>.sql``, of all models."""
        return run_query(name, self._tables, self._queries).df()

    def title(self, words: str, of: str | None = None) -> None:
        """The page's heading, and what it is of: the model, if nothing else is said."""
        of = of or f"Model <b>{html.escape(self.model)}</b>"
        display(HTML(f'<div class="page"><h1>{words}</h1><p>{of}</p></div>'))

    def lead(self, words: str) -> None:
        """What a reader in a hurry should take along; HTML."""
        display(HTML(f'<div class="page"><p class="lead">{words}</p></div>'))

    def say(self, *paragraphs: str) -> None:
        """Paragraphs of HTML."""
        text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
        display(HTML(f'<div class="page">{text}</div>'))

    def items(self, *items: str) -> None:
        """A list; items are HTML."""
        text = "".join(f"<li>{item}</li>" for item in items)
        display(HTML(f'<div class="page"><ul>{text}</ul></div>'))

    def show(self, frame: pd.DataFrame, digits: int = 3) -> None:
        """A table that sorts by a click on a column's head; missing values are empty."""
        if frame.empty:
            self.say("None in this study.")
        else:
            display(HTML(table_html(frame, digits)))

    def draw(self, figure: Figure, caption: str) -> None:
        """A figure as a picture that stays sharp in print, with its caption."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        words = html.escape(caption)
        display(
            HTML(
                f'<div class="page"><figure><img alt="{words}" '
                f'src="data:image/svg+xml;base64,{data}"><figcaption>{words}</figcaption>'
                "</figure></div>"
            )
        )


def table_html(frame: pd.DataFrame, digits: int = 3) -> str:
    """A frame as a sortable table: words to the left, numbers to the right, nothing for missing."""
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
    # underscores do not break, and wide heads must
    heads = [f"{_cells('th', [c.replace('_', ' ') for c in shown.columns], wordy)}"]
    rows = [_cells("td", values, wordy) for values in shown.itertuples(index=False)]
    return (
        f'<div class="page wide"><table class="sortable"><thead>{"".join(heads)}</thead>'
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
    if is_exact and isinstance(value, float):
        return f"{value:,.0f}"
    return number(value, digits) if isinstance(value, float) else str(value)


def _cells(tag: str, values: Any, wordy: list[bool]) -> str:
    start = '<th tabindex="0"' if tag == "th" else "<td"
    kinds = [' class="words"' if words else "" for words in wordy]
    cells = (
        f"{start}{kind}>{html.escape(value)}</{tag}>"
        for kind, value in zip(kinds, values, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"
