"""Whether the verdict is a general one: over models, their widths and their training.

Sentences and the picture are made from rows of the query ``generality``.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorpress.report.figures import legend_below, nats_scale
from tensorpress.report.wording import nats_per_token

COLOURS = ("#0072B2", "#E69F00", "#D55E00")
"""Of the budgets, in order."""


@dataclass(frozen=True)
class Series:
    """Models that differ in one thing alone."""

    of: str
    """What they have in common."""
    by: str
    """The column that differs."""
    what: str
    """What that is, in words."""
    rows: pd.DataFrame


def series(rows: pd.DataFrame) -> list[Series]:
    """Embedded models of several widths, trained to the end, and of several stages of training."""
    found = []
    trained = rows[rows["training_progress"] == 1]
    for (name, _), group in trained.groupby(["trained_as", "task"]):
        if group["hidden_size"].nunique() > 1:
            found.append(Series(f"{name}, trained", "hidden_size", "width", group))
    for (name, width, _), group in rows.groupby(["trained_as", "hidden_size", "task"]):
        if group["training_progress"].nunique() > 1:
            of = f"{name}, width {width}"
            found.append(Series(of, "training_progress", "share of training", group))
    return found


def whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of models that are trained to the end, as all are taken for that nothing is known of."""
    return rows[rows["training_progress"].fillna(1) == 1]


def verdict(rows: pd.DataFrame) -> str:
    """In how many comparisons of a model and a budget a tensor format wins, loses, or neither."""
    told = whole(rows).dropna(subset=["holm_p"])
    if told.empty:
        return (
            "No model of this study has a tensor format beside an alternative that saves as much."
        )
    counts = told["tensor_format"].value_counts()
    wins, loses = (int(counts.get(standing, 0)) for standing in ("wins", "loses"))
    models = told["model"].nunique()
    return (
        f"Of {len(told)} comparisons, {models} {'model' if models == 1 else 'models'} at up to "
        f"{told['budget_percent'].nunique()} budgets, the best tensor format wins in {wins}, loses "
        f"in {loses}, and in {len(told) - wins - loses} the difference is within noise."
    )


def trends(found: list[Series]) -> Iterator[str]:
    """One sentence a series and budget: how far the best tensor format is behind at each place."""
    for each in found:
        known = each.rows.dropna(subset="behind_nats").sort_values(each.by)
        for budget, group in known.groupby("budget_percent"):
            places = ", ".join(
                f"{_place(each, row)} {nats_per_token(row.behind_nats, row.behind_half_width)}"
                for row in group.itertuples()
            )
            yield (
                f"<b>{html.escape(each.of)}, {budget} % of bits saved</b>, behind the best "
                f"alternative by {each.what}: {places}."
            )


def picture(rows: pd.DataFrame, found: list[Series]) -> Figure:
    """Nats that the best tensor format is behind: of every trained model, and along each series.

    Solid: behind the best alternative, with paired intervals; dotted: behind the best low-rank run.
    """
    figure, grid = plt.subplots(
        1, 1 + len(found), figsize=(4.2 * (1 + len(found)), 3.8), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    all_models, *others = grid[0]
    trained = whole(rows)
    names = list(dict.fromkeys(trained["model"]))
    places = trained["model"].map(names.index)
    _draw(all_models, trained.assign(place=places), "place", line="")
    all_models.set_xticks(range(len(names)), names, rotation=30, ha="right")
    all_models.set_title("trained models", fontsize=10)
    all_models.set_ylabel("best tensor format behind, nats per token")
    for axes, each in zip(others, found, strict=True):
        _draw(axes, each.rows, each.by, line="-")
        axes.set_title(each.of, fontsize=10)
        axes.set_xlabel(each.what)
    nats_scale(all_models, "y", list(rows["behind_nats"].dropna()))
    legend_below(figure)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, by: str, line: str) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    budgets = rows.sort_values(by).groupby("budget_percent")
    for colour, (budget, group) in zip(COLOURS, budgets, strict=False):
        axes.errorbar(
            group[by], group["behind_nats"], yerr=group["behind_half_width"], color=colour,
            marker="o", markersize=5, capsize=2, linestyle=line, label=f"{budget} % saved",
        )  # fmt: skip
        axes.plot(
            group[by], group["behind_svd_nats"], color=colour, marker="x", markersize=5,
            linestyle=":" if line else "", label=f"{budget} %, behind low rank",
        )  # fmt: skip


def _place(each: Series, row: Any) -> str:
    place = getattr(row, each.by)
    return f"{place:.0%}" if each.by == "training_progress" else f"{place:g}"
