"""How compressions look in every figure: a colour and a marker for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, LogLocator, SymmetricalLogLocator

from tensorpress.files.numbers import significant

KINDS: dict[str, dict[str, Any]] = {
    "whitened SVD": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "SVD": {"color": "#56B4E9", "marker": "o", "linestyle": "-"},
    "RTN-8": {"color": "black", "marker": "^", "linestyle": ":"},
    "RTN-4": {"color": "black", "marker": "v", "linestyle": ":"},
    "GPTQ": {"color": "#666666", "marker": "D", "linestyle": ":"},
    "drop": {"color": "#999999", "marker": "x", "linestyle": "--"},
    "low rank": {"color": "#56B4E9", "marker": "P", "linestyle": "-"},
    "quantisation": {"color": "#666666", "marker": "P", "linestyle": ":"},
    "pruning": {"color": "#999999", "marker": "P", "linestyle": "--"},
    "control": {"color": "black", "marker": "+", "linestyle": "-"},
    "hybrid": {"color": "#CC79A7", "marker": "X", "linestyle": "-"},
    "mixture": {"color": "#CC79A7", "marker": "P", "linestyle": "-"},
}
TENSOR_FORMAT = "tensor format"
TENSOR_COLOURS = ("#D55E00", "#E69F00", "#009E73", "#882255", "#999933", "#661100")
TENSOR_MARKERS = "s*hXp<>d"
OTHER_BITS = {"color": "black", "marker": "1", "linestyle": ":"}
"""RTN to other than 4 or 8 bits."""


def kind_style(kind: str) -> dict[str, Any]:
    """Colour, marker and line of a compression (``kind`` of ``perplexities``)."""
    if kind == TENSOR_FORMAT:
        return {"color": TENSOR_COLOURS[0], "marker": "s", "linestyle": "-"}
    return KINDS.get(kind, OTHER_BITS)


def recipe_styles(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Style by recipe: tensor formats differ, a control has its own, later recipes of it hollow."""
    styles: dict[str, dict[str, Any]] = {}
    kinds = frame.drop_duplicates("recipe").sort_values("recipe")
    for kind, recipes in kinds.groupby("kind"):
        for index, recipe in enumerate(recipes["recipe"]):
            style = dict(kind_style(kind))
            if kind == TENSOR_FORMAT:
                style["color"] = TENSOR_COLOURS[index % len(TENSOR_COLOURS)]
                style["marker"] = TENSOR_MARKERS[index % len(TENSOR_MARKERS)]
            elif index:
                style["markerfacecolor"] = "white"
            styles[recipe] = style
    return styles


def plot_points(axes: Axes, line: pd.DataFrame, style: dict[str, Any], label: str) -> None:
    """Points of ``perplexities`` or of a query made from it, with their 95 % intervals."""
    # missing where there is no interval: not one of no width
    below, above = line["perplexity"] - line["low"], line["high"] - line["perplexity"]
    axes.errorbar(
        line["bits_saved_percent"], line["perplexity"], yerr=[below, above], label=label,
        markersize=5, linewidth=1.4, capsize=2, **style,
    )  # fmt: skip


def plot_recipes(axes: Axes, frame: pd.DataFrame) -> None:
    """One line per recipe through its points, with 95 % intervals, controls last in the legend."""
    styles = recipe_styles(frame)
    controls = frame["kind"] != TENSOR_FORMAT
    for recipe in dict.fromkeys([*frame[~controls]["recipe"], *frame[controls]["recipe"]]):
        line = frame[frame["recipe"] == recipe].sort_values("bits_saved_percent")
        plot_points(axes, line, styles[recipe], recipe)


def perplexity_axes(
    axes: Axes, baseline: float, drawn: Sequence[float], worst: float = 10.0
) -> str:
    """Scales, labels and the uncompressed model; what lies above ``worst`` times it is cut off.

    Returns a sentence on how many of the perplexities drawn are cut off, empty if none is.
    """
    axes.axhline(baseline, color="black", linewidth=0.9, linestyle="-.", label="uncompressed")
    top = baseline * worst
    shown = [value for value in drawn if value <= top]
    beyond = sum(value > top for value in drawn)
    highest = max([*shown, baseline])
    axes.set_yscale("log")
    axes.set_ylim(min([*shown, baseline]) * 0.97, max(highest * 1.06, baseline * 1.1))
    is_narrow = highest < 4 * baseline
    axes.yaxis.set_major_locator(AutoLocator() if is_narrow else LogLocator(subs=(1, 1.5, 2, 3, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: significant(value))
    axes.minorticks_off()
    axes.set_xlabel("bits saved, % of the model with embeddings")
    axes.set_ylabel("perplexity (log scale)")
    return f" Not shown: {beyond} above {significant(top)}." if beyond else ""


def nats_scale(axes: Axes, axis: Literal["x", "y"], drawn: Sequence[float]) -> None:
    """A loss on one axis: linear up to 0.01 nats on either side of zero, logarithmic beyond."""
    if all(abs(value) < 0.05 for value in drawn):
        return  # too short a range for ticks of a logarithm
    {"x": axes.set_xscale, "y": axes.set_yscale}[axis]("symlog", linthresh=0.01)
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(SymmetricalLogLocator(base=10, linthresh=0.01, subs=[1, 3]))
    chosen.set_major_formatter("{x:g}")


def legend_beside(axes: Axes) -> None:
    """The legend to the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def legend_below(figure: Figure, columns: int = 4) -> None:
    """One legend for all axes of a figure laid out by ``constrained``, below them."""
    handles: dict[Any, Any] = {}
    for axes in figure.axes:
        found, names = axes.get_legend_handles_labels()
        handles = {**dict(zip(names, found, strict=True)), **handles}
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns
        )
