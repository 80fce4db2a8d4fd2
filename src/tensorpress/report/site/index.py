"""The first page of a site: the verdict of every model, its pages, and every run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import pandas as pd

from tensorpress.config.params import BASELINE
from tensorpress.config.reports import NOTEBOOKS
from tensorpress.planning.pages import ReportArtifact
from tensorpress.report import frontier
from tensorpress.report.pages import chart_html, charts_script
from tensorpress.report.site.frame import RUNS, Frame, page_of, quoted
from tensorpress.report.tables import table_html

QUERIES = ("every_run", "frontier", "bits_at_loss", "verdict", "controls")
"""What the page is made from."""
SHOWN = {
    "recipe": "recipe",
    "model": "model",
    "layers": "layers",
    "methods": "methods",
    "module_groups": "modules",
    "runs": "seeds",
    "bits_saved_percent": "bits saved, %",
    "task": "task",
    "perplexity": "perplexity",
    "nats_lost": "loss, nats per token",
    "nats_lost_half_width": "interval, ±",
}
"""Columns of the table of runs, and their heads."""


def index_html(frame: Frame, rows: Mapping[str, pd.DataFrame]) -> str:
    """The body of the page; ``rows`` of each of ``QUERIES``."""
    every = rows["every_run"]
    measured = every.dropna(subset="task")
    models = dict.fromkeys([*every["model"], *frame.of_models])
    body = f'<div class="page"><h1>Results of the study</h1><p>{_counted(every)}</p></div>'
    # of these the bundle that draws them is in the folder anyway
    drawn = [(r.spec.model, r.spec.task) for r in frame.reports if r.spec.notebook == "verdict"]
    body += charts_script() if drawn else ""
    for model in models:
        body += f'<div class="page"><h2>{html.escape(model)}</h2></div>'
        tasks = dict.fromkeys(measured.loc[measured["model"] == model, "task"])
        for task in tasks:
            at = {
                name: rows[name][(rows[name]["model"] == model) & (rows[name]["task"] == task)]
                for name in QUERIES
            }
            heading = f"<h3>Task <code>{html.escape(task)}</code></h3>" if len(tasks) > 1 else ""
            body += f'<div class="page">{heading}{_said(at)}</div>'
            if (model, task) in drawn:
                body += _picture(at["frontier"], f"frontier-{model}-{task}")
        body += _pages(frame.of_models.get(model, ()))
    return f'{body}<div class="page"><h2>Every run</h2></div>{_runs(every)}'


def _counted(every: pd.DataFrame) -> str:
    runs = every.loc[every["recipe"] != BASELINE, "run"].nunique()
    models = " and ".join(f"<b>{html.escape(model)}</b>" for model in every["model"].unique())
    return (
        f"Compressed checkpoints of {models}: {runs}, all in the table at the end. Each has a page "
        "of its own, to which its marks in the pictures lead too."
    )


def _said(at: Mapping[str, pd.DataFrame]) -> str:
    lead, *others = frontier.sentences(at["bits_at_loss"], at["verdict"], at["controls"])
    return (f'<p class="lead">{lead}</p>' if lead else "") + "".join(f"<p>{s}</p>" for s in others)


def _picture(points: pd.DataFrame, place: str) -> str:
    return chart_html(frontier.picture(points), frontier.caption(points), place)


def _pages(reports: Sequence[ReportArtifact]) -> str:
    items = "".join(
        f'<li><a href="{page_of(each)}">{html.escape(each.name)}</a>: '
        f"{html.escape(NOTEBOOKS[each.spec.notebook].about)}</li>"
        for each in reports
    )
    return f'<div class="page"><ul>{items}</ul></div>' if items else ""


def _runs(every: pd.DataFrame) -> str:
    links = [f"{RUNS}/{quoted(run)}.html" for run in every["run"]]
    shown = every[list(SHOWN)].rename(columns=SHOWN)
    return table_html(shown, links=links)
