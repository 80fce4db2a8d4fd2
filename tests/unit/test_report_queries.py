"""Tables of reports and words about them, from rows of a study that was never run."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from support.stages import ask, records
from support.study import BASELINE, HALF_WIDTH, LAYERS, Study, method_spec
from support.workspace import ROOT

from tensorpress.methods.advised import Choice
from tensorpress.methods.base import MethodSpec
from tensorpress.planning.compression import compression
from tensorpress.report import wording
from tensorpress.report.queries import connect


def test_intervals_are_of_students_t(tmp_path: Path) -> None:
    found = connect().sql("SELECT d, t95(d) FROM range(1, 200) AS r(d)").fetchall()
    for degrees, quantile in found:
        assert quantile == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12)
    study = Study()
    study.baseline()
    losses = [0.1, 0.2, 0.4]
    for seed, nats in enumerate(losses):
        study.run("svd_lora", "svd", 20, nats, recovered=True, seed=seed)
    values = [BASELINE * math.exp(nats) for nats in losses]
    low, high = stats.t.interval(0.95, 2, pd.Series(values).mean(), stats.sem(values))
    (row,) = (
        ask("perplexities", study.written(tmp_path))
        .query("recipe == 'svd_lora'")
        .to_dict("records")
    )
    assert row["runs"] == 3
    assert row["perplexity"] == pytest.approx(sum(values) / 3)
    assert (row["low"], row["high"]) == (
        pytest.approx(low, rel=1e-3),
        pytest.approx(high, rel=1e-3),
    )
    assert (row["approach"], row["kind"]) == ("low rank", "SVD")
    # three runs of one recipe at one place are no sweep of layers
    (line,) = ask("lines", study.written(tmp_path)).to_dict("records")
    assert line["perplexity"] == row["perplexity"]


TT, SVD, DENSE, ADVISED = (
    method_spec("tt"),
    method_spec("svd"),
    method_spec("dense"),
    method_spec("advised"),
)


def advised(*methods: str) -> MethodSpec:
    """Settings of ``advised`` with choices of these methods, one a layer."""
    choice = {
        "modules": ("ffn.up",), "settings": {}, "bits": 1, "dense_bits": 2, "damage": 0.1,
        "ranks": (), "macs": 1, "dense_macs": 2,
    }  # fmt: skip
    chosen = [Choice(**choice, layer=n, method=method) for n, method in enumerate(methods)]
    return method_spec("advised").model_copy(update={"choices": chosen})


def hybrid(format: str) -> MethodSpec:
    """Rounded weights with a correction of this format."""
    return method_spec("quantised_plus_correction", correction={"format": format, "rank": 2})


@pytest.mark.parametrize(
    ("specs", "bits", "approach", "kind", "alternative"),
    [
        ([TT], None, "tensor format", "tensor format", False),
        ([TT], 4, "tensor format", "tensor format", False),
        ([TT, method_spec("tucker_qkvo")], None, "tensor format", "tensor format", False),
        ([method_spec("td_moe"), DENSE], None, "tensor format", "tensor format", False),
        ([TT, SVD], None, "mixture", "mixture", False),
        ([TT, DENSE], 4, "mixture", "mixture", False),
        ([SVD], None, "low rank", "SVD", True),
        ([method_spec("svd-whitened")], None, "low rank", "whitened SVD", True),
        ([SVD, method_spec("svd-whitened")], None, "low rank", "low rank", True),
        ([SVD], 8, "low rank", "low rank", True),
        ([SVD, method_spec("gptq")], None, "mixture", "mixture", True),
        ([DENSE], 4, "quantisation", "RTN-4", True),
        ([DENSE], None, "control", "control", True),
        ([method_spec("gptq")], None, "quantisation", "GPTQ", True),
        ([method_spec("drop")], None, "pruning", "drop", True),
        ([method_spec("sparse", share=0.5)], None, "pruning", "pruning", True),
        ([method_spec("sparse_plus_low_rank", share=0.5)], None, "hybrid", "hybrid", True),
        ([hybrid("svd")], None, "hybrid", "hybrid", True),
        ([hybrid("tt")], None, "hybrid", "hybrid", False),
        ([ADVISED], None, "mixture", "mixture", False),
        (
            [method_spec("advised", methods=["svd"], quantise=False)],
            None,
            "low rank",
            "low rank",
            True,
        ),
        ([advised("tt", "tucker_ffn", "dense")], None, "tensor format", "tensor format", False),
        ([advised("rounding", "rounding")], None, "quantisation", "quantisation", True),
        ([advised("rounding", "svd")], None, "mixture", "mixture", True),
        ([advised("rounding", "tt")], None, "mixture", "mixture", False),
    ],
)
def test_what_a_run_is_follows_from_its_methods(
    specs: list[MethodSpec], bits: int | None, approach: str, kind: str, alternative: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    """And on which side of the verdict it stands; its name carries nothing."""
    study = Study()
    study.run("tt_lora_published", specs, 50, 0.1, rounding_bits=bits)
    tables = study.written(tmp_path)
    (row,) = records("perplexities", tables)
    assert (row["approach"], row["kind"]) == (approach, kind)
    assert not row["recovered"]
    verdict = records("verdict", tables)[0]
    assert (verdict["tensor_recipe"] is not None) == (approach == "tensor format")
    assert (verdict["alternative_recipe"] is not None) == alternative


def test_queries_read_columns_and_no_names() -> None:
    reads_text = re.compile(
        r"(?i)\b(i?like|similar|glob|regexp_\w+|\w*split_\w+|str\w*_split\w*|contains|substr\w*"
        r"|prefix|suffix|\w+s_with)\b"
    )
    for query in (ROOT / "queries").glob("*.sql"):
        lines = query.read_text(encoding="utf-8").splitlines()
        code = [line.partition("--")[0] for line in lines]
        assert not [line for line in code if reads_text.search(line)], query.name


def test_controls_stand_at_equal_bytes(whole: dict[str, Path]) -> None:
    runs = [r for r in records("perplexities", whole) if r["recipe"] != "baseline"]
    compared = records("controls", whole)
    assert len(compared) == len(runs) > 30
    for row in compared:
        peers = [
            r for r in runs
            if r["bits_saved_percent"] >= row["bits_saved_percent"]
            and r["recovered"] <= row["recovered"]
        ]  # fmt: skip
        for column, control in (
            ("rtn_4_perplexity", "RTN-4"),
            ("rtn_8_perplexity", "RTN-8"),
            ("whitened_svd_perplexity", "whitened SVD"),
            ("drop_perplexity", "drop"),
        ):
            found = [r["perplexity"] for r in peers if r["control"] == control]
            assert row[column] == min(found) if found else math.isnan(row[column])


def test_recovery_is_put_beside_what_it_started_from(whole: dict[str, Path]) -> None:
    rows = {row["recipe"]: row for row in records("recovery", whole)}
    tt = rows["tt_ffn_lora"]
    after = sum(BASELINE * math.exp(nats) for nats in (0.29, 0.30, 0.31)) / 3
    share = 1 - math.log(after / BASELINE) / 0.6  # the same recipe without lora lost 0.6
    assert tt["share_recovered_percent"] == pytest.approx(100 * share)
    assert tt["before_bits_saved_percent"] == 12
    # a run of more layers saves more and loses less
    assert (tt["equal_bits_recipe"], tt["equal_bits_layers"]) == ("tt_ffn", "0,1,2")
    assert (tt["alternative"], tt["standing"]) == ("svd_whitened", "behind")
    assert tt["gap_nats"] == pytest.approx(math.log(after / BASELINE) - 0.12)
    assert math.isnan(rows["tucker_ffn_lora"]["before_perplexity"])
    words = wording.recovery(ask("recovery", whole))
    assert "2 recovered runs, over 3 seeds each." in words
    assert "takes back 50 % of the loss of 1 run " in words
    assert "of 2 runs of tensor formats: 2 behind." in words


def test_no_share_of_a_loss_within_noise(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("tt", "tt", 12, 0.005)
    study.run("tt_lora", "tt", 11, 0.003, recovered=True, compared_with="tt", seed=0)
    rows = ask("recovery", study.written(tmp_path))
    assert rows["before_perplexity"].notna().all()
    assert rows["share_recovered_percent"].isna().all()
    assert "with a loss beyond noise" in wording.recovery(rows)


def test_share_of_the_published_gap(whole: dict[str, Path], tmp_path: Path) -> None:
    (row,) = records("head_axis", whole)
    assert row["published_gap_nats"] == pytest.approx(0.65 - 0.15)
    assert row["right_gap_nats"] == pytest.approx(0.35 - 0.15)
    assert row["share_remaining"] == pytest.approx(0.4)
    # linear propagation, by numerical derivatives
    losses = {"right": 0.35, "published": 0.65, "svd": 0.15}

    def share(**moved: float) -> float:
        at = {**losses, **moved}
        return (at["right"] - at["svd"]) / (at["published"] - at["svd"])

    parts = []
    for name, nats in losses.items():
        half = HALF_WIDTH / (BASELINE * math.exp(nats))
        slope = (share(**{name: nats + 1e-6}) - share(**{name: nats - 1e-6})) / 2e-6
        parts.append(slope * half)
    assert row["share_half_width"] == pytest.approx(math.hypot(*parts), rel=1e-4)
    (words,) = wording.head_axis(pd.DataFrame([row]))
    assert "<b>40 % ± 2 of the published gap remains.</b>" in words
    errors = ask("head_axis_errors", whole)
    assert len(errors) == 4 * LAYERS
    (words,) = wording.head_axis_errors(errors)
    assert "0.500 (0.500 to 0.500) times" in words
    assert f"lower in {LAYERS} of {LAYERS} layers" in words


def test_one_window_says_nothing_of_recovery_or_layouts(tmp_path: Path) -> None:
    one = {"stderr": None, "stderr_samples": 1}
    study = Study()
    study.baseline()
    study.run("tt", "tt", 12, 0.9, **one)
    study.run("tt_lora", "tt", 11, 0.1, recovered=True, compared_with="tt", seed=0, **one)
    study.run("svd", "svd", 12, 0.5, **one)
    study.run("attention", "tucker_qkvo", 8, 0.2, **one)
    study.run(
        "attention_published", "tucker_qkvo-published", 8, 0.9, compared_with="attention", **one
    )
    tables = study.written(tmp_path)
    (row,) = records("recovery", tables)
    assert row["standing"] == "too few windows"
    assert math.isnan(row["share_recovered_percent"])
    words = wording.recovery(ask("recovery", tables))
    assert "beyond noise, some for too few windows." in words
    assert "1 run of tensor formats: 1 too few windows." in words
    (row,) = records("head_axis", tables)
    assert row["published_gap_nats"] == pytest.approx(0.4)
    assert math.isnan(row["share_remaining"])
    assert "too few windows to tell" in wording.head_axis(pd.DataFrame([row]))[0]


def test_no_share_of_a_gap_within_noise(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("attention", "tucker_qkvo", 8, 0.2)
    study.run("attention_published", "tucker_qkvo-published", 8, 0.2, compared_with="attention")
    (row,) = ask("head_axis", study.written(tmp_path)).to_dict("records")
    assert row["svd_recipe"] is None or pd.isna(row["svd_recipe"])
    assert "no gap to speak of" in wording.head_axis(pd.DataFrame([row]))[0]
    study.run("svd_whitened", "svd-whitened", 9, 0.2)
    (row,) = ask("head_axis", study.written(tmp_path)).to_dict("records")
    assert math.isnan(row["share_remaining"])
    assert "not beyond noise" in wording.head_axis(pd.DataFrame([row]))[0]


def test_spearman_is_that_of_scipy(tmp_path: Path) -> None:
    measured = [0.1, 0.2, 0.2, 0.4, 0.5, 0.3]
    predicted = [0.3, 0.1, 0.2, 0.9, 0.9, 0.4]
    study = Study()
    study.baseline()
    for index, (nats, guess) in enumerate(zip(measured, predicted, strict=True)):
        study.run(f"svd_{index}", "svd", 10, nats)
        for layer in (None, 1, 2):  # modules have rows of their own
            study.add(
                "predicted_damage", guess, kind="prediction", task="prediction",
                recipe=f"svd_{index}", layer=layer,
            )  # fmt: skip
    rows = ask("prediction", study.written(tmp_path))
    assert len(rows) == len(measured)
    expected = stats.spearmanr(measured, predicted).statistic
    assert rows["spearman"].tolist() == pytest.approx([expected] * len(measured))
    assert f"(Spearman) with the measured loss is {expected:.3f}." in wording.prediction(rows)


def test_what_training_changes_is_paired_over_seeds(tmp_path: Path) -> None:
    study = Study()
    for kind, more in (("moe", 0.0), ("moe_himoe", 0.1)):
        for seed in range(3):
            of = {"model": f"{kind}-{seed}", "trained_as": kind, "training_seed": seed}
            study.run("baseline", [], 0, 0.0, layers=(), **of)
            scatter = 0.01 * seed * (kind == "moe_himoe")
            study.run("svd_whitened", "svd-whitened", 40, 0.2 + 0.05 * seed, **of)
            study.run("td_moe", "td_moe", 40.5, 0.3 + 0.05 * seed + more + scatter, **of)
            use = {"recipe": "baseline", "kind": "expert_balance", "task": "use", "layer": 0}
            study.add("effective_experts", 8 - 2 * more, **use, **of)
            at = {"recipe": "baseline", "kind": "heterogeneity", "task": "mismatch", **of}
            for layer in range(2):
                study.add(
                    "sharing_penalty", 1 + layer + more, comparison="experts", layer=layer, **at
                )
    rows = {
        (row["subject"], row["measure"]): row
        for row in records("specialisation", study.written(tmp_path))
    }
    assert rows["uncompressed", "nats"]["change"] == pytest.approx(0)
    assert rows["router", "effective_experts"]["change"] == pytest.approx(-0.2)
    assert rows["experts", "sharing_penalty"]["first_value"] == pytest.approx(1.5)
    assert rows["experts", "sharing_penalty"]["change"] == pytest.approx(0.1)
    assert rows["svd_whitened", "nats lost"]["standing"] == "within noise"
    assert ("svd_whitened", "nats lost beyond SVD") not in rows
    lost = rows["td_moe", "nats lost beyond SVD"]
    assert lost["first_value"] == pytest.approx(0.1)
    assert lost["change"] == pytest.approx(0.11)
    assert lost["change_half_width"] == pytest.approx(stats.t.ppf(0.975, 2) * 0.01 / 3**0.5)
    assert (lost["seeds"], lost["standing"]) == (3, "more")


def test_ways_to_share_a_budget_are_compared_in_measured_loss(tmp_path: Path) -> None:
    study = Study()
    for recipe, allocate, shift in (
        ("by_loss", "loss", 0.0), ("same", "uniform", 0.3), ("turned", "importance", -0.1),
    ):  # fmt: skip
        spec = method_spec("svd", rank=None, budget={"saved": 0.5, "allocate": allocate})
        nats = [2.0 + shift + 0.01 * place * (1 + shift) for place in range(9)]
        assert compression([spec]).allocated == allocate
        facts = {"allocated": allocate, "module_groups": "attention+ffn"}
        facts |= {"compared_with": "by_loss"} if shift else {}
        study.windows(recipe, "svd", 40, nats, **facts)
    study.baseline()
    rows = ask("allocation", study.written(tmp_path)).set_index("recipe")
    assert list(rows["allocated"]) == ["uniform", "importance"]
    assert set(rows["other_allocated"]) == {"loss"}
    differences = pd.Series([0.3 + 0.003 * place for place in range(9)])
    assert rows.loc["same", "more_nats"] == pytest.approx(differences.mean())
    half_width = stats.t.ppf(0.975, 8) * stats.sem(differences)
    assert rows.loc["same", "more_half_width"] == pytest.approx(half_width)
    same, turned = wording.allocation(rows.reset_index())
    assert same.startswith(
        "<code>same</code> (svd of attention, ffn, 40.0 % saved, shared by uniform) loses 0.312 ±"
    )
    assert "more than <code>by_loss</code> (40.0 %, loss)." in same
    assert "less than <code>by_loss</code>" in turned
