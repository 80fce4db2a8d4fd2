"""The frontier: every run by the bits that it saves and the loss that it adds, in classes.

Sentences are made from rows of the queries ``bits_at_loss``, ``ahead`` and ``parts``; the picture
is one of points that name themselves under the pointer (Vega-Lite).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from tensorpress.files.numbers import number, significant
from tensorpress.report import charts, wording
from tensorpress.report.tables import spans
from tensorpress.report.wording import nats_per_token

if TYPE_CHECKING:
    import altair

CLASSES: dict[str, dict[str, str]] = {
    "tensor format": {"color": "#D55E00", "shape": "square"},
    "low rank": {"color": "#0072B2", "shape": "circle"},
    "quantisation": {"color": "#4D4D4D", "shape": "triangle-up"},
    "pruning": {"color": "#8C8C8C", "shape": "cross"},
    "control": {"color": "#000000", "shape": "stroke"},
    "combination": {"color": "#CC79A7", "shape": "diamond"},
    "advised": {"color": "#009E73", "shape": "triangle-right"},
}
"""Classes of ``frontier`` with their colours, which differ to the colour-blind, and marks."""
WORST = 2.0
"""Nats per token beyond which a run is not drawn: of a model that has lost its language."""


def sentences(equal_loss: pd.DataFrame, verdict: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    """The verdict on a model, what a reader in a hurry should take along first; HTML.

    Of rows of ``bits_at_loss``, ``verdict`` and ``controls``.
    """
    plain, recovered = (verdict[verdict["with_recovery"] == either] for either in (False, True))
    said = [
        at_loss(equal_loss),
        f"<b>Tensor formats at equal bits.</b> {wording.verdict(plain)}",
    ]
    if not recovered.empty:
        said.append(f"<b>With recovery allowed on either side:</b> {wording.verdict(recovered)}")
    return [*said, wording.every_run(controls), wording.missing_controls(plain)]


def caption(rows: pd.DataFrame) -> str:
    """What is to be said below the picture of ``frontier``."""
    return (
        "Loss over the uncompressed model against bits saved: every run is a mark that names "
        "itself under the pointer, faint where another of its class is better. A line goes "
        "through the best of its class without recovery, with paired 95 % intervals. Lower and "
        f"further right is better.{beyond(rows)}"
    )


def at_loss(rows: pd.DataFrame) -> str:
    """By how many bits at equal loss a combination beats quantisation (``bits_at_loss``)."""
    if rows.empty:
        return ""
    first = rows.iloc[0]
    if not (first["has_combined"] and first["has_quantised"]):
        missing = "combination" if first["has_quantised"] else "quantisation"
        return f"The study has no {missing}, so that it cannot say what combining saves."
    said: dict[str, list[str]] = {}
    for row in rows.itertuples():
        said.setdefault(_at_loss(row), []).append(f"{row.most_nats:g}")
    return " ".join(
        f"At a loss of at most {' or '.join(limits)} nats per token {words}"
        for words, limits in said.items()
    )


def _at_loss(row: Any) -> str:
    if pd.isna(row.combined_recipe) and pd.isna(row.quantised_recipe):
        return "neither a combination nor quantisation saves anything."
    combined, quantised = (_saver(row, side) for side in ("combined", "quantised"))
    lead = f"{number(abs(row.points_more), 1)} % of the model's bits more than"
    if row.points_more > 0:
        return f"the best combination saves {lead} quantisation: {combined} against {quantised}."
    if row.points_more < 0:
        return f"quantisation saves {lead} the best combination: {quantised} against {combined}."
    return f"the best combination saves as much as quantisation: {combined}."


def _saver(row: Any, side: str) -> str:
    recipe = getattr(row, f"{side}_recipe")
    if pd.isna(recipe):
        return "nothing"
    saved, nats, half_width = (
        getattr(row, f"{side}_{name}") for name in ("saved_percent", "nats", "half_width")
    )
    return f"{number(saved, 1)} % (<code>{recipe}</code>, {nats_per_token(nats, half_width)})"


def ahead(rows: pd.DataFrame) -> list[str]:
    """One sentence a stretch of savings: which class is ahead there (rows of ``ahead``)."""
    return [
        f"<b>{number(row.from_percent, 1)} to {number(row.to_percent, 1)} %</b> of bits saved: "
        f"{row.leader}, at the end <code>{row.recipe}</code>, which loses "
        f"{nats_per_token(row.nats_lost, row.nats_lost_half_width)}."
        for row in rows.rename(columns={"class": "leader"}).itertuples()
    ]


def parts(rows: pd.DataFrame) -> list[str]:
    """One sentence a part of the model: whether a tensor format leads there (``parts``)."""
    return [
        f"<b>{row.module_groups.replace('+', ' and ')}</b>: of {row.runs} runs of tensor formats, "
        f"{row.ahead} lose less than every alternative of the same modules that saves as much, and "
        f"{row.behind} lose more. The best of them, <code>{row.recipe}</code> on layers "
        f"{spans(row.layers)} ({number(row.bits_saved_percent, 1)} % saved), loses "
        f"{nats_per_token(abs(row.lead_nats), row.lead_half_width)} "
        f"{'more' if row.lead_nats < 0 else 'less'} than <code>{row.alternative_recipe}</code>."
        for row in rows.itertuples()
    ]


def beyond(rows: pd.DataFrame) -> str:
    """How many runs of ``frontier`` are not drawn; empty where all are."""
    left_out = int((rows["nats_lost"] > WORST).sum())
    return f" Not shown: {left_out} that lose more than {WORST:g} nats." if left_out else ""


def picture(rows: pd.DataFrame) -> altair.LayerChart:
    """Points of ``frontier``, intervals, and a line of steps along the best of each class."""
    import altair

    # whether rows are missing or none is drawn: a chart of nothing is one all the same
    drawn = rows[rows["nats_lost"] <= WORST].drop(columns="window_nats")
    drawn = charts.told(drawn).assign(
        perplexities=[significant(value) for value in drawn["perplexity"]],
        healing=drawn["recovered"].map({True: "recovered", False: "not recovered"}),
    )
    known = [name for name in CLASSES if name in set(drawn["class"])]
    x = altair.X("bits_saved_percent:Q").title("bits saved, % of the model with embeddings")
    reached = [*drawn["nats_lost"], *drawn["low_nats"].dropna()]
    y = charts.nats(altair.Y, "nats_lost", "loss, nats per token", reached)
    colour = (
        altair.Color("class:N").title("class").legend(symbolOpacity=1)
        .scale(domain=known, range=[CLASSES[name]["color"] for name in known])
    )  # fmt: skip
    shape = altair.Shape("class:N").scale(
        domain=known, range=[CLASSES[name]["shape"] for name in known]
    )
    faint = altair.condition("datum.efficient_of_class", altair.value(1.0), altair.value(0.35))
    base = altair.Chart(drawn)
    marks = base.mark_point(size=70, filled=True).encode(
        x, y, colour, shape, opacity=faint,
        tooltip=charts.tooltips({
            "class": "class", "methods": "methods", "module_groups": "modules",
            "healing": "training", "perplexities": "perplexity",
        }),
    )  # fmt: skip
    bars = base.mark_rule(opacity=0.5).encode(x, altair.Y("low_nats:Q"), colour, y2="high_nats:Q")
    best = altair.FieldEqualPredicate(field="efficient_of_class", equal=True)
    steps = (
        base.mark_line(interpolate="step-before", strokeWidth=1.5)
        .transform_filter(best)
        .encode(x, y, colour, order="bits_saved_percent:Q")
    )
    return charts.framed(steps, bars.transform_filter(best), marks)
