"""The verdict, from rows of a study that was never run: its words follow the numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from support.stages import ask, records
from support.study import BASELINE, HALF_WIDTH, STDERR, Study

from tensorpress.report import wording


def duel(tensor: float, alternative: float) -> Study:
    """A tensor format against whitened SVD at 20 % of bits saved, by their losses in nats."""
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 20, tensor)
    study.run("svd_whitened", "svd-whitened", 21, alternative)
    return study


def verdict_of(study: Study, folder: Path, with_recovery: bool = False) -> pd.DataFrame:
    rows = ask("verdict", study.written(folder))
    return rows[rows["with_recovery"] == with_recovery]


def test_a_tensor_format_that_wins_is_said_to_win(tmp_path: Path) -> None:
    rows = verdict_of(duel(0.10, 0.30), tmp_path)
    words = wording.verdict(rows)
    width = HALF_WIDTH / BASELINE * math.hypot(math.exp(-0.10), math.exp(-0.30))
    assert words.startswith("Yes, at 5, 10 and 20 % of bits saved a tensor format beats every")
    assert f"0.200 ± {width:.3f} nats per token lower" in words
    assert f"<code>tt_ffn</code> has perplexity {BASELINE * math.exp(0.1):.2f}" in words
    assert "At 30 and 40 % no run saves so much." in words
    assert list(rows["tensor_format_wins"]) == ["yes"] * 3 + ["nothing saves so much"] * 2


def test_a_tensor_format_that_loses_is_said_to_lose(tmp_path: Path) -> None:
    rows = verdict_of(duel(0.30, 0.10), tmp_path)
    words = wording.verdict(rows)
    assert words.startswith("No: at no budget does a tensor format beat the best alternative.")
    assert "0.200 ±" in words
    assert "Yes" not in words
    (at_20,) = [line for line in wording.budgets(rows) if line.startswith("<b>20 %</b>")]
    assert "the best run is <code>svd_whitened</code> (whitened SVD, layers 1-2)" in at_20
    assert "no quantisation and no drop." in at_20


@pytest.mark.parametrize("lead", [0.005, -0.005])
def test_a_difference_within_the_intervals_is_noise(lead: float, tmp_path: Path) -> None:
    rows = verdict_of(duel(0.1 - lead, 0.1), tmp_path)
    assert set(rows["tensor_format_wins"]) == {"within noise", "nothing saves so much"}
    assert wording.verdict(rows).startswith("Within noise: at 5, 10 and 20 % of bits saved")


def test_an_alternative_must_save_as_much(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 31, 0.5)
    study.run("svd_whitened", "svd-whitened", 29, 0.1)
    outcomes = verdict_of(study, tmp_path).set_index("budget_percent")["tensor_format_wins"]
    assert outcomes[20] == "no"
    assert outcomes[30] == "no alternative"
    assert "At 30 % nothing but tensor formats saves" in wording.verdict(
        verdict_of(study, tmp_path)
    )


def test_recovered_runs_enter_only_where_both_sides_may_recover(tmp_path: Path) -> None:
    study = duel(0.30, 0.20)
    assert verdict_of(study, tmp_path, with_recovery=True).empty
    for seed in range(3):
        study.run("tt_ffn_lora", "tt", 20, 0.1, recovered=True, seed=seed)
    assert wording.verdict(verdict_of(study, tmp_path)).startswith("No")
    assert wording.verdict(verdict_of(study, tmp_path, with_recovery=True)).startswith("Yes")


def test_missing_controls_are_named(tmp_path: Path) -> None:
    study = duel(0.1, 0.2)
    words = wording.missing_controls(verdict_of(study, tmp_path))
    assert "Missing in this study: RTN-4, RTN-8, drop." in words
    study.run("int8", "dense", 35, 0.3, rounding_bits=8)
    study.run("int4", "dense", 65, 0.9, rounding_bits=4)
    study.run("drop", "drop", 10, 0.9)
    assert "all four controls" in wording.missing_controls(verdict_of(study, tmp_path))


def test_other_protocols_are_not_compared(tmp_path: Path) -> None:
    study = duel(0.30, 0.10)
    study.add(
        "perplexity", 1.0, recipe="gptq", approach="quantisation", kind="perplexity",
        task="heldout", protocol="other", bits_saved_with_embeddings_percent=50.0,
    )  # fmt: skip
    rows = verdict_of(study, tmp_path)
    assert set(rows[rows["protocol"] == "p"]["alternative_recipe"].dropna()) == {"svd_whitened"}
    words = wording.protocols(rows)
    assert words == (
        "protocols <code>other</code>, <code>p</code>: numbers of different ones must not be "
        "compared"
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_window_gives_no_verdict(seeds: int, tmp_path: Path) -> None:
    """Neither a win nor a loss, whatever the lead, and whatever seeds of recovery say."""
    one = {"stderr": None, "stderr_samples": 1, "recovered": seeds > 1}
    study = Study()
    study.baseline()
    for seed in range(seeds):
        study.run("tt_ffn", "tt", 20, 0.1 + seed / 100, seed=seed, **one)
        study.run("svd_whitened", "svd-whitened", 21, 2.0, seed=seed, **one)
    tables = study.written(tmp_path)
    for row in records("perplexities", tables)[1:]:
        assert row["perplexity"] > 20
        assert all(math.isnan(row[name]) for name in ("half_width", "low", "high"))
    rows = verdict_of(study, tmp_path, with_recovery=seeds > 1)
    assert list(rows["tensor_format_wins"])[:3] == ["too few windows"] * 3
    words = wording.verdict(rows)
    assert words.startswith("Undecided: one window of text")
    assert "At 5, 10 and 20 % the evaluation has too few windows" in words
    assert "<code>tt_ffn</code>" in wording.budgets(rows)[0]
    if seeds == 1:
        assert "0 lose more than the best of them, and 0 are within noise; 1 have too few" in (
            wording.every_run(ask("controls", tables))
        )


def test_a_handful_of_windows_takes_students_t(tmp_path: Path) -> None:
    """At three windows the 95 % interval is 4.303 standard errors, not 1.96."""
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 20, 0.1, stderr_samples=3)
    (row,) = [
        r for r in records("perplexities", study.written(tmp_path)) if r["recipe"] != "baseline"
    ]
    assert row["half_width"] == pytest.approx(4.302653 * STDERR)
    assert row["high"] - row["perplexity"] == pytest.approx(4.302653 * STDERR)
