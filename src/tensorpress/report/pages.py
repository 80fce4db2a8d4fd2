"""What all notebooks share: queries of one model, text, sortable tables, figures as pictures.

A notebook's set-up is ``page = Page(model, task, results, decompositions, queries)``, with ``jobs``
in the end where it shows what the run cost.
"""

from __future__ import annotations

import base64
import html
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure

from tensorpress.config.reports import NOTEBOOKS
from tensorpress.report.queries import run_query
from tensorpress.report.tables import table_html

if TYPE_CHECKING:
    import altair

STYLE = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


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
        self._charts = 0
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
        display(HTML(page_style()))

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
        """The page's heading, and what it is of: the model, if nothing else is said.

        Of a model it is said if its weights had been quantised before.
        """
        of = of or f"Model <b>{html.escape(self.model)}</b>{self._origin()}"
        display(HTML(f'<div class="page"><h1>{words}</h1><p>{of}</p></div>'))

    def _origin(self) -> str:
        """What the uncompressed weights were dequantised from; nothing of plain ones."""
        rows = self.query("sources").dropna(subset="source_quantisation")
        return "".join(
            f", whose uncompressed weights were dequantised from {html.escape(row[0])}. These "
            f"files hold {100 * row.source_bits / row.dense_bits:.1f} % of the bits that savings "
            "are counted against. What was rounded once loses little when it is rounded again: "
            "rounding looks better here than on weights that never were."
            for row in rows.itertuples(index=False)
        )

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

    def others(self, name: str) -> None:
        """A list of what the notebooks but ``name`` are about."""
        self.items(
            *(f"<b>{other}</b>: {each.about}" for other, each in NOTEBOOKS.items() if other != name)
        )

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

    def chart(self, chart: altair.LayerChart, caption: str) -> None:
        """A picture whose marks name themselves under the pointer, with its caption.

        Where scripts do not run, as in some readers, it is a plain one.
        """
        self._charts += 1
        if self._charts == 1:
            display(HTML(charts_script()))
        display(HTML(chart_html(chart, caption, f"chart-{self._charts}")))


def page_style() -> str:
    """How pages look and what they do, in the page itself: it shall work wherever it is opened."""
    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{script}</script>"


@cache
def charts_script() -> str:
    """What draws charts; once a page, before the first of them."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # it has a default
    return f"<script>{bundle}</script>"


def chart_html(chart: altair.LayerChart, caption: str, place: str) -> str:
    """A chart with its caption; ``place``: its id, of which a page has no second one."""
    import vl_convert

    specification = chart.properties(description=caption).to_json(indent=None)
    picture = base64.b64encode(vl_convert.vegalite_to_svg(specification).encode()).decode()
    words, inline = html.escape(caption), specification.replace("</", "<\\/")
    return (
        f'<div class="page"><figure><div id="{place}" class="chart"></div>'
        f'<noscript><img alt="{words}" src="data:image/svg+xml;base64,{picture}"></noscript>'
        f"<figcaption>{words}</figcaption></figure></div>"
        f'<script>drawChart("{place}", {inline});</script>'
    )
