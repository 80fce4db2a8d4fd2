"""Pictures whose marks name themselves under the pointer (Vega-Lite): what they have in common.

Rows keep the column ``run``, by which a mark leads to the page of its run in a site (``page.js``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tensorpress.report import figures
from tensorpress.report.tables import spans
from tensorpress.report.wording import nats_per_token

if TYPE_CHECKING:
    import altair

TICKS = [-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10]
SHAPES = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond",
    "d": "diamond", "x": "cross", "X": "cross", "P": "cross", "p": "square", "h": "circle",
    "*": "triangle-right", "<": "triangle-left", ">": "triangle-right", "+": "stroke", "1": "arrow",
}  # fmt: skip
"""The marker of Vega that stands for one of matplotlib's (``figures``)."""


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with ends of intervals (``low_nats``, ``high_nats``) and what pointing at them tells."""
    return rows.assign(
        low_nats=rows["nats_lost"] - rows["nats_lost_half_width"],
        high_nats=rows["nats_lost"] + rows["nats_lost_half_width"],
        loss=list(map(nats_per_token, rows["nats_lost"], rows["nats_lost_half_width"])),
        of_layers=[spans(layers) for layers in rows["layers"]],
    )


def tooltips(more: Mapping[str, str]) -> list[altair.Tooltip]:
    """Recipe, layers, bits and loss of rows of ``told``, then ``more`` columns by their names."""
    import altair

    return [
        altair.Tooltip("recipe:N", title="recipe"),
        altair.Tooltip("of_layers:N", title="layers"),
        altair.Tooltip("bits_saved_percent:Q", title="bits saved, %", format=".1f"),
        altair.Tooltip("loss:N", title="loss"),
        *(altair.Tooltip(f"{column}:N", title=title) for column, title in more.items()),
    ]


def nats(channel: Any, field: str, title: str, values: Sequence[float]) -> Any:
    """A loss on one axis (``altair.X`` or ``Y``): linear near zero, logarithmic beyond."""
    axis = channel(f"{field}:Q").title(title)
    reached = [0.0, *values]
    if max(map(abs, reached)) < 0.05:
        return axis.scale(domain=[min(reached), max(reached)])
    scale = {"type": "symlog", "constant": 0.01, "nice": False}
    return axis.scale(domain=[min(reached), max(reached)], **scale).axis(values=TICKS, format="~g")


MARGINS = {"left": 5, "top": 5, "right": 30, "bottom": 5}
"""Pixels; a reader of the still picture may have wider letters than it was laid out with."""


def framed(*layers: altair.Chart) -> altair.LayerChart:
    """Layers as one chart, which looks as all do."""
    import altair

    return (
        altair.layer(*layers)
        .properties(width=720, height=380, padding=MARGINS)
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12)
        .configure_legend(labelFontSize=12, titleFontSize=12, labelLimit=300)
    )


def predicted(rows: pd.DataFrame) -> altair.LayerChart:
    """Predicted against measured loss (rows of ``prediction``), and a line where they are equal."""
    import altair

    drawn = told(rows).assign(predicted=[f"{value:.4g}" for value in rows["predicted_nats"]])
    kinds = sorted(drawn["kind"].unique())
    x = nats(altair.X, "predicted_nats", "predicted, nats per token", list(drawn["predicted_nats"]))
    y = nats(altair.Y, "nats_lost", "measured, nats per token", list(drawn["nats_lost"]))
    marks = altair.Chart(drawn).mark_point(size=60, strokeWidth=1.5)
    more = {"kind": "kind", "predicted": "predicted, nats per token"}
    styles = {kind: figures.kind_style(kind) for kind in kinds}
    points = marks.encode(x, y, *_styled("kind", styles), tooltip=tooltips(more))
    ends = [0.0, min(rows["predicted_nats"].max(), rows["nats_lost"].max())]
    equal = (
        altair.Chart(pd.DataFrame({"predicted_nats": ends, "nats_lost": ends}))
        .mark_line(color="#8C8C8C", strokeDash=[4, 4])
        .encode(x, y)
    )
    return framed(equal, points)


def of_layers(rows: pd.DataFrame) -> altair.LayerChart:
    """Loss when one layer alone is compressed (rows of ``layer_sensitivity``), by recipe."""
    import altair

    drawn = told(rows.assign(layers=rows["layer"].astype(str)))
    saved = drawn.groupby("recipe")["bits_saved_percent"].mean()
    names = {recipe: f"{recipe} (saves {mean:.1f} % a layer)" for recipe, mean in saved.items()}
    drawn["line"] = drawn["recipe"].map(names)
    styles = {names[recipe]: style for recipe, style in figures.recipe_styles(rows).items()}
    reached = [*drawn["nats_lost"], *drawn["low_nats"].dropna(), *drawn["high_nats"].dropna()]
    x = altair.X("layer:O").title("layer").axis(labelAngle=0, labelOverlap=True)
    y = nats(altair.Y, "nats_lost", "loss, nats per token", reached)
    stroke, *others = _styled("line", styles)
    base = altair.Chart(drawn)
    lines = base.mark_line(strokeWidth=1.4).encode(x, y, stroke)
    bars = base.mark_rule().encode(x, altair.Y("low_nats:Q"), stroke, y2="high_nats:Q")
    points = base.mark_point(size=55, strokeWidth=1.5)
    marks = points.encode(x, y, stroke, *others, tooltip=tooltips({"methods": "methods"}))
    return framed(lines, bars, marks)


def _styled(field: str, styles: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Line, filling and shape of marks by the names in a column, with one legend."""
    import altair

    names = list(styles)
    colours = [style["color"] for style in styles.values()]
    filled = [style.get("markerfacecolor", style["color"]) for style in styles.values()]
    shapes = [SHAPES[style["marker"]] for style in styles.values()]
    channels = ((altair.Stroke, colours), (altair.Fill, filled), (altair.Shape, shapes))
    return [
        channel(f"{field}:N").title(None).scale(domain=names, range=chosen)
        for channel, chosen in channels
    ]
