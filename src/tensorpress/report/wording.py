"""The verdict in words: sentences made from rows of the queries, so that words follow numbers."""

from __future__ import annotations

import html
from datetime import timedelta
from typing import Any

import pandas as pd

from tensorpress.files.numbers import number
from tensorpress.report.tables import spans

NO_RUNS = "The study has no compressed run of this model that was measured by this task."


def verdict(rows: pd.DataFrame) -> str:
    """Whether a tensor format beats the best alternative at any budget (rows of ``verdict``)."""
    if rows.empty:
        return NO_RUNS
    wins = rows[rows["tensor_format_wins"] == "yes"].sort_values("lead_nats")
    ties = rows[rows["tensor_format_wins"] == "within noise"].sort_values("lead_nats")
    losses = rows[rows["tensor_format_wins"] == "no"].sort_values("lead_nats")
    if not wins.empty:
        row = wins.iloc[-1]
        words = (
            f"Yes, at {_budgets(wins)} of bits saved a tensor format beats every alternative. It "
            f"leads most at {row.budget_percent} %: {_duel(row)}, "
            f"{nats_per_token(row.lead_nats, row.lead_half_width)} lower."
        )
        if not ties.empty:
            words += f" At {_budgets(ties)} the difference is within noise."
        if not losses.empty:
            words += f" At {_budgets(losses)} the best alternative is ahead."
    elif not ties.empty:
        row = ties.iloc[-1]
        words = (
            f"Within noise: at {_budgets(ties)} of bits saved the best tensor format and the best "
            f"alternative cannot be told apart; at {row.budget_percent} %: {_duel(row)}, a lead of "
            f"{nats_per_token(row.lead_nats, row.lead_half_width)}: {row.tensor_format}."
        )
        if not losses.empty:
            words += f" At {_budgets(losses)} the best alternative is ahead."
    elif not losses.empty:
        row = losses.iloc[-1]
        words = (
            f"No: at no budget does a tensor format beat the best alternative. It comes closest at "
            f"{row.budget_percent} % of bits saved: {_duel(row)}, "
            f"{nats_per_token(-row.lead_nats, row.lead_half_width)} higher."
        )
    elif (rows["tensor_format_wins"] == TOO_FEW).any():
        words = "Undecided: one window of text, or none, says nothing of how far losses spread."
    else:
        words = "Undecided: at no budget does the study have both a tensor format and another."
    for reason, group in rows.groupby("tensor_format_wins"):
        if reason in UNDECIDED:
            words += f" At {_budgets(group)} {UNDECIDED[str(reason)]}."
    if not rows.loc[rows["lead_half_width"].notna(), "paired"].all():
        words += f" {UNPAIRED}"
    return words


UNPAIRED = (
    "The losses of single windows are not known of all these runs; where they are not, two runs "
    "are compared as if they had read different texts, which is cautious."
)


TOO_FEW = "too few windows"
"""How queries call a comparison with a run that has no standard error."""
UNDECIDED = {
    "nothing saves so much": "no run saves so much",
    "no tensor format": "no tensor format saves so much",
    "no alternative": "nothing but tensor formats saves so much",
    TOO_FEW: "the evaluation has too few windows to tell the two apart",
}


def run(totals: pd.DataFrame) -> str:
    """What the study cost and what was found made (the first row of ``run``: all models)."""
    row = totals.iloc[0]
    words = (
        f"Of {row.jobs} jobs this run did {row.this_run}, in {_duration(row.wall_seconds)} "
        f"({_duration(row.job_seconds)} of jobs, {row.gpu_hours:.2f} GPU hours); "
        f"{row.earlier_run + row.elsewhere} were found made. "
    )
    words += f"{row.failed_attempts or 'No'} attempts failed before their job succeeded."
    if pd.notna(row.peak_rss_mb):
        words += (
            f" Most memory: {row.peak_rss_mb:,.0f} MB, in <code>{row.peak_rule}</code>; longest: "
            f"<code>{html.escape(row.slowest)}</code>, {_duration(row.slowest_seconds)}."
        )
    return words


def _duration(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))} h"


def budgets(rows: pd.DataFrame) -> list[str]:
    """One sentence a budget: the best run, the best tensor format, and the controls."""
    lines = []
    for row in rows.itertuples():
        words = f"<b>{row.budget_percent} %</b>: "
        if pd.isna(row.best_recipe):
            lines.append(f"{words}no run saves so much.")
            continue
        words += (
            f"the best run is <code>{row.best_recipe}</code> ({row.best_kind}, layers "
            f"{spans(row.best_layers)}), which saves {row.best_bits_saved_percent:.1f} %: "
            f"perplexity {_between(row.best_perplexity, row.best_low, row.best_high)}."
        )
        if row.tensor_format_wins == "no":
            words += (
                f" The best tensor format, <code>{row.tensor_recipe}</code>, has "
                f"{_between(row.tensor_perplexity, row.tensor_low, row.tensor_high)}: "
                f"{nats_per_token(-row.lead_nats, row.lead_half_width)} behind."
            )
        elif row.tensor_format_wins in ("yes", "within noise"):
            words += (
                f" The best tensor format, <code>{row.tensor_recipe}</code>, has "
                f"{number(row.tensor_perplexity, 2)}, the best alternative, "
                f"<code>{row.alternative_recipe}</code> ({row.alternative_kind}), "
                f"{_between(row.alternative_perplexity, row.alternative_low, row.alternative_high)}"
                f": a lead of {nats_per_token(row.lead_nats, row.lead_half_width)}."
            )
        else:
            words += f" {UNDECIDED[row.tensor_format_wins].capitalize()}."
        controls = {
            "quantisation": row.quantised_perplexity,
            "whitened SVD": row.whitened_svd_perplexity,
            "drop": row.drop_perplexity,
        }
        has = ", ".join(f"{n} {number(v, 2)}" for n, v in controls.items() if pd.notna(v))
        lacks = [name for name, value in controls.items() if pd.isna(value)]
        words += f" Controls that save as much: {has or 'none'}"
        lines.append(words + (f"; no {' and no '.join(lacks)}." if lacks else "."))
    return lines


def missing_controls(rows: pd.DataFrame) -> str:
    """Which controls the study lacks, or that it has all."""
    missing = rows["missing_controls"].max() if len(rows) else ""
    if not missing:
        return "The study has all four controls: RTN-8, RTN-4, whitened SVD and drop."
    return (
        f"<b>Missing in this study: {missing}.</b> The verdict is against the other alternatives "
        "only; a control that is missing might have won."
    )


def every_run(rows: pd.DataFrame) -> str:
    """How many tensor-format runs beat all alternatives at equal bytes (rows of ``controls``)."""
    tensor = rows[(rows["approach"] == "tensor format") & ~rows["recovered"]]
    compared = tensor.dropna(subset="lead_nats")
    told = compared.dropna(subset="lead_half_width")
    ahead = told[told["lead_nats"] > told["lead_half_width"]]
    behind = told[told["lead_nats"] < -told["lead_half_width"]]
    untold = len(compared) - len(told)
    if compared.empty:
        return "No tensor-format run can be put beside an alternative that saves as many bits."
    return (
        f"Run by run, whatever the budget: of {len(compared)} tensor-format runs, {len(ahead)} "
        f"lose less than every alternative that saves at least as many bits, {len(behind)} lose "
        f"more than the best of them, and {len(told) - len(ahead) - len(behind)} are within noise"
        + (f"; {untold} have too few windows to tell." if untold else ".")
    )


def recovery(rows: pd.DataFrame) -> str:
    """What recovery takes back, and whether it closes the gap (rows of ``recovery``)."""
    if rows.empty:
        return "The study has no recovered run of this model."
    words = f"{_count(len(rows), 'recovered run')}, "
    words += f"over {_range(rows['runs'])} {'seed' if rows['runs'].max() == 1 else 'seeds'} each."
    known = rows.dropna(subset="share_recovered_percent")
    if known.empty:
        words += " None stands beside its compression without recovery with a loss beyond noise"
        untold = rows["before_perplexity"].notna() & rows["before_low"].isna()
        words += ", some for too few windows." if untold.any() else "."
    else:
        words += (
            f" Recovery takes back {_range(known['share_recovered_percent'].round())} % of the "
            f"loss of {_count(len(known), 'run')} that can be compared with its compression alone."
        )
    for is_tensor, name in ((True, "tensor formats"), (False, "other methods")):
        group = rows[(rows["approach"] == "tensor format") == is_tensor]
        if not group.empty:
            counts = group["standing"].value_counts()
            stands = ", ".join(f"{counts[s]} {s}" for s in STANDINGS if s in counts)
            words += (
                f" After it, against the best unrecovered alternative at equal bytes, of "
                f"{_count(len(group), 'run')} of {name}: {stands}."
            )
    return words


STANDINGS = ("ahead", "within noise", "behind", "no alternative", TOO_FEW)


def head_axis(rows: pd.DataFrame) -> list[str]:
    """How much of the published gap remains with the right heads (rows of ``head_axis``)."""
    lines = []
    for row in rows.itertuples():
        words = f"<code>{row.pair}</code>, layers {spans(row.layers)}: "
        gain = nats_per_token(abs(row.nats_gained), row.nats_gained_half_width)
        side = "below" if row.nats_gained > 0 else "above"
        if pd.isna(row.svd_perplexity):
            words += (
                f"the right layout's loss is {gain} {side} the published one's. No SVD of the same "
                "modules saves as much, so there is no gap to speak of."
            )
            lines.append(words)
            continue
        words += (
            f"against {row.svd_control} of the same modules at equal bytes, the published layout "
            "loses "
            f"{nats_per_token(row.published_gap_nats, row.published_gap_half_width)} more, "
            f"the right one {nats_per_token(row.right_gap_nats, row.right_gap_half_width)}."
        )
        if pd.isna(row.published_gap_half_width):
            words += " The evaluation has too few windows to tell whether the gap is beyond noise."
        elif pd.isna(row.share_remaining):
            words += " The published gap is not beyond noise: nothing to divide."
        else:
            words += f" <b>{_share(row)} of the published gap remains.</b>"
        lines.append(words)
    return lines


def head_axis_errors(rows: pd.DataFrame) -> list[str]:
    """Ratio of reconstruction errors over layers (rows of ``head_axis_errors``)."""
    return [
        f"<code>{row.pair}</code>: the error of Q, K, V and O with the heads split is "
        f"{_between(row.mean_ratio, row.mean_ratio_low, row.mean_ratio_high, 3)} times that of the "
        f"published layout, lower in {row.layers_where_right_is_better} of {row.layers} layers."
        for row in rows.drop_duplicates("pair").itertuples()
    ]


def family(rows: pd.DataFrame) -> list[str]:
    """Where any tensor format beats SVD, and what order means (rows of ``family_stacks``)."""
    return [
        f"At {row.budget:g} % of values saved some tensor format errs less than SVD of as many "
        f"values in {row.tensor_format_wins} of {row.compared} stacks; on average the best has "
        f"{row.mean_ratio:.3f} times SVD's error. In {row.order_matters} the order of rows and "
        f"columns matters: the error is {row.mean_scrambled_ratio:.3f} times that of scrambled "
        "matrices on average."
        for row in rows[rows["of_all"]].itertuples()
    ]


def allocation(rows: pd.DataFrame) -> list[str]:
    """Whether it pays how a budget is shared, run by run (rows of ``allocation``)."""
    return [
        f"<code>{row.recipe}</code> ({row.methods} of {row.module_groups.replace('+', ', ')}, "
        f"{number(row.bits_saved_percent, 1)} % saved, shared by {row.allocated}) loses "
        f"{nats_per_token(abs(row.more_nats), row.more_half_width)} "
        f"{'more' if row.more_nats > 0 else 'less'} than <code>{row.other_recipe}</code> "
        f"({number(row.other_bits_saved_percent, 1)} %, {row.other_allocated})."
        for row in rows.itertuples()
    ]


def idle_experts(rows: pd.DataFrame) -> list[str]:
    """Experts that no token of the text reached, layer by layer (rows of ``idle_experts``)."""
    if rows.empty:
        return ["Every expert received tokens, before and after."]
    lines = []
    for (layer, run, state), group in rows.groupby(["layer", "run", "state"], sort=True):
        row = group.iloc[0]
        model = "uncompressed model" if state == "dense" else f"run <code>{run}</code>"
        lines.append(
            f"Layer {layer} of the {model}: {_count(row.experts_without_tokens, 'expert')} "
            f"({row.experts}) received none of the {row.tokens:,} tokens; what is said of "
            f"{'it' if row.experts_without_tokens == 1 else 'them'} below is of the weights alone."
        )
    return lines


def prediction(rows: pd.DataFrame) -> str:
    """How well damage is predicted in advance (rows of ``prediction``)."""
    first = rows.iloc[0]
    words = f"Before any evaluation, damage was predicted for {first.runs_compared} runs"
    if pd.isna(first.spearman):
        return f"{words}, too few to rank."
    return (
        f"{words}; the rank correlation (Spearman) with the measured loss is {first.spearman:.3f}."
    )


def protocols(rows: pd.DataFrame) -> str:
    """By which protocols perplexities were measured."""
    known = sorted(set(rows["protocol"]) - {""})
    if len(known) > 1:
        listed = ", ".join(f"<code>{name}</code>" for name in known)
        return f"protocols {listed}: numbers of different ones must not be compared"
    return f"protocol <code>{known[0]}</code>" if known else "no protocol recorded"


def _duel(row: Any) -> str:
    return (
        f"<code>{row.tensor_recipe}</code> has perplexity "
        f"{_between(row.tensor_perplexity, row.tensor_low, row.tensor_high)}, "
        f"<code>{row.alternative_recipe}</code> ({row.alternative_kind}) "
        f"{_between(row.alternative_perplexity, row.alternative_low, row.alternative_high)}"
    )


def _share(row: Any) -> str:
    share = f"{100 * row.share_remaining:.0f} %"
    if pd.isna(row.share_half_width):
        return f"{share} (no interval)"
    return f"{share} ± {100 * row.share_half_width:.0f}"


def nats_per_token(value: float, half_width: float) -> str:
    """A loss or a difference of two with half of its interval, if it has one."""
    if pd.isna(half_width):
        return f"{number(value)} nats per token (no interval)"
    return f"{number(value)} ± {number(half_width)} nats per token"


def _between(value: float, low: float, high: float, digits: int = 2) -> str:
    if pd.isna(low):
        return number(value, digits)
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def _budgets(rows: pd.DataFrame) -> str:
    *first, last = (str(budget) for budget in sorted(rows["budget_percent"]))
    return f"{', '.join(first)} and {last} %" if first else f"{last} %"


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 's'}"
