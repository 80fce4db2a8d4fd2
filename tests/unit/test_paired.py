"""Differences of runs that read the same windows or items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from support.stages import ask
from support.study import Study

from tensorpress.report import paired, wording

WINDOWS = 60


def losses(seed: int, lead: float, noise: float = 0.01) -> tuple[list[float], list[float]]:
    """Losses of two runs that spread widely from window to window and hardly from each other."""
    draw = np.random.default_rng(seed)
    one = 4 + draw.normal(0, 0.5, WINDOWS)
    other = one + lead + draw.normal(0, noise, WINDOWS)
    return one.tolist(), other.tolist()


@pytest.mark.parametrize(("windows", "block"), [(30, 1), (39, 1), (40, 2), (60, 3)])
def test_a_paired_interval_is_that_of_the_differences(windows: int, block: int) -> None:
    """Of means of blocks, where there are enough windows."""
    pair = [run[:windows] for run in losses(0, 0.02)]
    found = paired.difference(*pair)
    assert found is not None
    one, other = (np.reshape(run, (-1, block)).mean(1) for run in pair)
    low, high = stats.ttest_rel(other, one).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    p = paired.two_sided(found.mean, found.half_width, found.degrees)
    assert p == pytest.approx(stats.ttest_rel(other, one).pvalue)
    swapped = paired.difference(*pair[::-1])
    assert swapped is not None
    assert swapped.mean == -found.mean
    alone = paired.mean_half_width(pair[1])
    assert alone == pytest.approx(stats.t.ppf(0.975, len(other) - 1) * stats.sem(other))


@pytest.mark.parametrize("likeness", [0.0, 0.3])
def test_windows_that_are_like_their_neighbours_say_less(likeness: float) -> None:
    """Of 161 windows whose differences follow each other, intervals cover what they say."""
    draw = np.random.default_rng(3)
    covered, crossed = 0, 0
    for _ in range(1000):
        fresh = draw.normal(0, 1, 200)
        found = np.zeros(200)
        for place in range(1, 200):
            found[place] = likeness * found[place - 1] + fresh[place]
        gaps, none = found[-161:].tolist(), [0.0] * 161
        whole = paired.difference(none, gaps)
        halves = paired.difference_of_best(none, gaps, none, gaps)
        assert whole is not None
        assert halves is not None
        covered += abs(whole.mean) < whole.half_width
        crossed += abs(halves.mean) < halves.half_width
    assert covered / 1000 == pytest.approx(0.95, abs=0.025)
    assert crossed / 1000 == pytest.approx(0.95, abs=0.025)


def test_what_cannot_be_paired_is_not() -> None:
    assert paired.difference([1.0, 2.0], [1.0, 2.0, 3.0]) is None
    assert paired.difference(None, [1.0, 2.0]) is None
    assert paired.difference([1.0, None], [1.0, 2.0]) is None  # of a mixture without a share
    assert paired.difference([1.0], [2.0]) is None
    assert paired.difference_of_best(*[[1.0, 2.0, 3.0]] * 4) is None
    assert paired.two_sided(1.96, 1.959964, None) == pytest.approx(0.05, rel=1e-3)


def test_to_choose_and_to_estimate_on_one_text_flatters_the_winner() -> None:
    """Of forty runs that are all the same but for noise, the best leads by nothing."""
    draw = np.random.default_rng(1)
    naive, crossed, covered = [], [], 0
    for _ in range(200):
        runs = 4 + draw.normal(0, 0.1, (41, WINDOWS))
        one, others = runs[0], runs[1:]
        best = others[others.mean(1).argmin()]
        on_even, on_odd = (others[others[:, h::2].mean(1).argmin()] for h in (0, 1))
        found = paired.difference_of_best(on_even, one, on_odd, one)
        assert found is not None
        naive.append((one - best).mean())
        crossed.append(found.mean)
        covered += abs(found.mean) < found.half_width
    assert np.mean(naive) > 0.02
    assert abs(np.mean(crossed)) < 0.003
    assert covered / 200 == pytest.approx(0.95, abs=0.04)


def test_one_pair_chosen_twice_is_compared_over_all_windows() -> None:
    one, other = losses(2, 0.05)
    whole, crossed = (
        paired.difference(one, other),
        paired.difference_of_best(one, other, one, other),
    )
    assert whole is not None
    assert crossed is not None
    assert crossed.mean == pytest.approx(whole.mean)
    assert crossed.half_width == pytest.approx(whole.half_width, rel=0.1)


def test_mcnemar_is_the_binomial_test_of_the_items_that_differ() -> None:
    one = [1.0] * 30 + [0.0] * 9 + [1.0] * 2
    other = [1.0] * 30 + [1.0] * 9 + [0.0] * 2
    assert paired.mcnemar(one, other) == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert paired.mcnemar(one, one) == 1
    assert paired.mcnemar([0.5, 1.0], [1.0, 1.0]) is None


def duel(lead: float, extra: int = 0) -> Study:
    """A tensor format that leads whitened SVD at 20 % by ``lead``, and others of the same loss."""
    tensor, alternative = losses(3, lead)
    study = Study()
    study.windows("baseline", "dense", 0, [x - 0.1 for x in tensor], layers=())
    study.windows("tt_ffn", "tt", 20, tensor)
    study.windows("svd_whitened", "svd-whitened", 21, alternative)
    return study


@pytest.mark.parametrize(("lead", "outcome"), [(0.02, "yes"), (-0.02, "no"), (0.0, "within noise")])
def test_the_verdict_is_of_paired_windows(lead: float, outcome: str, tmp_path: Path) -> None:
    """Perplexities a twentieth of their own intervals apart are told apart."""
    rows = ask("verdict", duel(lead).written(tmp_path))
    assert set(rows["tensor_format_wins"]) == {outcome, "nothing saves so much"}
    row = rows.iloc[0]
    assert row["paired"]
    assert row["lead_half_width"] < 0.005
    assert row["tensor_high"] - row["tensor_perplexity"] > 5
    assert row["lead_nats"] == pytest.approx(lead, abs=0.005)
    if outcome == "within noise":
        bound = abs(row["lead_nats"]) + row["lead_half_width"]
        assert row["tensor_format"] == f"no difference larger than {bound:.3g}"
    assert "as if" not in wording.verdict(rows)


def test_leads_at_several_budgets_are_corrected_after_holm(tmp_path: Path) -> None:
    study = Study()
    tensor, alternative = losses(4, 0.0)
    found = paired.difference_of_best(tensor, alternative, tensor, alternative)
    assert found is not None
    # each budget has a lead of its own, the last one's p-value alone is below 0.05
    shifts = {5: 0.0, 10: 0.2, 20: 1.06, 30: 1.06}
    for saved, shift in shifts.items():
        lead = shift * found.half_width - found.mean
        at = {"layers": (saved,)}
        loss = [x + saved for x in tensor]
        study.windows("tt", "tt", saved, loss, **at)
        other = [x + lead + saved for x in alternative]
        study.windows("svd", "svd", saved, other, **at)
    rows = ask("verdict", study.written(tmp_path)).set_index("budget_percent")
    p = [
        paired.two_sided(shift * found.half_width, found.half_width, found.degrees)
        for shift in shifts.values()
    ]
    assert p[3] < 0.05
    order = np.argsort(p, kind="stable")
    holm, least = {}, 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, p[index] * (len(p) - place)))
        holm[index] = least
    for index, budget in enumerate(shifts):
        assert rows.loc[budget, "holm_p"] == pytest.approx(holm[index], rel=1e-6)
    assert math.isnan(rows.loc[40, "holm_p"])
    assert set(rows["tensor_format_wins"]) == {"within noise", "nothing saves so much"}


def test_seeds_add_to_what_windows_leave_open(tmp_path: Path) -> None:
    tensor, alternative = losses(5, 0.05)
    study = Study()
    shifts = (-0.01, 0.0, 0.01)
    for seed, shift in enumerate(shifts):
        nats = [x + shift for x in tensor]
        study.windows("tt_lora", "tt", 20, nats, recovered=True, seed=seed)
    study.windows("svd", "svd", 20, alternative)
    rows = ask("verdict", study.written(tmp_path))
    row = rows[rows["with_recovery"]].iloc[0]
    found = paired.difference_of_best(tensor, alternative, tensor, alternative)
    assert found is not None
    seeds = stats.t.ppf(0.975, 2) * np.std(shifts, ddof=1) / math.sqrt(3)
    assert row["lead_nats"] == pytest.approx(found.mean)
    assert row["lead_half_width"] == pytest.approx(math.hypot(found.half_width, seeds))


def test_accuracies_are_compared_item_by_item(tmp_path: Path) -> None:
    study = Study()
    right = [1.0] * 50 + [0.0] * 50
    now = [1.0] * 45 + [0.0] * 55
    common = {"kind": "cloze", "task": "cloze", "protocol": "p", "samples": 100}
    study.add("acc", 0.5, recipe="baseline", observations=tuple(right), **common)
    study.add("acc", 0.45, recipe="svd", observations=tuple(now), **common)
    rows = ask("tasks", study.written(tmp_path)).set_index("recipe")
    assert math.isnan(rows.loc["baseline", "change"])
    row = rows.loc["svd"]
    assert row["change"] == pytest.approx(-0.05)
    found = paired.difference(right, now)
    assert found is not None
    assert row["change_half_width"] == pytest.approx(found.half_width)
    assert row["mcnemar_p"] == pytest.approx(stats.binomtest(0, 5).pvalue)
