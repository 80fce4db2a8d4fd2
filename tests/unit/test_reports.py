"""Reports from rows of a study that was never run: words, tables and pages follow the numbers."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import duckdb
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats
from study import BASELINE, LAYERS, STDERR, Study, whole_study

from tensorpress import pages, wording
from tensorpress.params import Report
from tensorpress.reporting import MACROS, render, run_query

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
TASKS = {
    "geometry": "geometry",
    "mismatch": "mismatch",
    "moe": "experts",
    "super_weights": "restoration",
}
"""What each notebook shows, where that is not perplexity."""


def ask(study: Study, folder: Path, name: str) -> pd.DataFrame:
    return run_query(name, study.written(folder), ROOT / "queries").df()


def duel(tensor: float, alternative: float) -> Study:
    """A tensor format against whitened SVD at 20 % of bits saved, by their losses in nats."""
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 20, tensor)
    study.run("svd_whitened", "svd-whitened", 21, alternative)
    return study


def verdict_of(study: Study, folder: Path, with_recovery: bool = False) -> pd.DataFrame:
    rows = ask(study, folder, "verdict")
    return rows[rows["with_recovery"] == with_recovery]


def test_a_tensor_format_that_wins_is_said_to_win(tmp_path: Path) -> None:
    rows = verdict_of(duel(0.10, 0.30), tmp_path)
    words = wording.verdict(rows)
    width = 1.95996 * STDERR / BASELINE * math.hypot(math.exp(-0.10), math.exp(-0.30))
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
        study.run("tt_ffn_lora", "tt+lora", 20, 0.1, seed=seed)
    assert wording.verdict(verdict_of(study, tmp_path)).startswith("No")
    assert wording.verdict(verdict_of(study, tmp_path, with_recovery=True)).startswith("Yes")


def test_missing_controls_are_named(tmp_path: Path) -> None:
    study = duel(0.1, 0.2)
    words = wording.missing_controls(verdict_of(study, tmp_path))
    assert "Missing in this study: RTN-4, RTN-8, drop." in words
    study.run("int8", "dense+int8", 35, 0.3)
    study.run("int4", "dense+int4", 65, 0.9)
    study.run("drop", "drop", 10, 0.9)
    assert "all four controls" in wording.missing_controls(verdict_of(study, tmp_path))


def test_other_protocols_are_not_compared(tmp_path: Path) -> None:
    study = duel(0.30, 0.10)
    study.add(
        "perplexity", 1.0, recipe="gptq", methods="gptq", kind="perplexity", task="heldout",
        protocol="other", bits_saved_with_embeddings_percent=50.0,
    )  # fmt: skip
    rows = verdict_of(study, tmp_path)
    assert set(rows[rows["protocol"] == "p"]["alternative_recipe"].dropna()) == {"svd_whitened"}
    words = wording.protocols(rows)
    assert words == (
        "protocols <code>other</code>, <code>p</code>: numbers of different ones must not be "
        "compared"
    )


def test_intervals_are_of_students_t(tmp_path: Path) -> None:
    connection = duckdb.connect()
    connection.execute(MACROS)
    found = connection.sql("SELECT d, t95(d) FROM range(1, 200) AS r(d)").fetchall()
    for degrees, quantile in found:
        assert quantile == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)
    study = Study()
    study.baseline()
    losses = [0.1, 0.2, 0.4]
    for seed, nats in enumerate(losses):
        study.run("svd_lora", "svd+lora", 20, nats, seed=seed)
    values = [BASELINE * math.exp(nats) for nats in losses]
    low, high = stats.t.interval(0.95, 2, pd.Series(values).mean(), stats.sem(values))
    (row,) = ask(study, tmp_path, "perplexities").query("recipe == 'svd_lora'").to_dict("records")
    assert row["runs"] == 3
    assert row["perplexity"] == pytest.approx(sum(values) / 3)
    assert (row["low"], row["high"]) == (
        pytest.approx(low, rel=1e-3),
        pytest.approx(high, rel=1e-3),
    )
    assert row["approach"] == "SVD"
    # three runs of one recipe at one place are no sweep of layers
    (line,) = ask(study, tmp_path, "lines").to_dict("records")
    assert line["perplexity"] == row["perplexity"]


@pytest.mark.parametrize(
    ("recipe", "methods", "approach"),
    [
        ("a", "tt", "tensor format"),
        ("a", "dense+tucker_qkvo+int4+lora", "tensor format"),
        ("a", "td_moe", "tensor format"),
        ("a", "svd", "SVD"),
        ("a_whitened", "svd-whitened+lora", "whitened SVD"),
        ("a", "dense+int4", "RTN-4"),
        ("a", "gptq", "GPTQ"),
        ("a", "drop", "drop"),
        ("a", "svd+int8", "other"),
    ],
)
def test_approaches(recipe: str, methods: str, approach: str, tmp_path: Path) -> None:
    study = Study()
    study.run(recipe, methods, 10, 0.1)
    (row,) = ask(study, tmp_path, "perplexities").to_dict("records")
    assert row["approach"] == approach
    assert row["recovered"] == methods.endswith("lora")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tables of the study with every kind of row."""
    return whole_study(lead=0.1).written(tmp_path_factory.mktemp("whole"))


def records(tables: dict[str, Path], name: str) -> list[dict]:
    return run_query(name, tables, ROOT / "queries").df().to_dict("records")


def test_controls_stand_at_equal_bytes(whole: dict[str, Path]) -> None:
    runs = [r for r in records(whole, "perplexities") if r["recipe"] != "baseline"]
    compared = records(whole, "controls")
    assert len(compared) == len(runs) > 30
    for row in compared:
        peers = [
            r for r in runs
            if r["bits_saved_percent"] >= row["bits_saved_percent"]
            and r["recovered"] <= row["recovered"]
        ]  # fmt: skip
        for column, approach in (
            ("rtn_4_perplexity", "RTN-4"),
            ("rtn_8_perplexity", "RTN-8"),
            ("whitened_svd_perplexity", "whitened SVD"),
            ("drop_perplexity", "drop"),
        ):
            found = [r["perplexity"] for r in peers if r["approach"] == approach]
            assert row[column] == min(found) if found else math.isnan(row[column])


def test_recovery_is_put_beside_what_it_started_from(whole: dict[str, Path]) -> None:
    rows = {row["recipe"]: row for row in records(whole, "recovery")}
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
    words = wording.recovery(pd.DataFrame(records(whole, "recovery")))
    assert "2 recovered runs, over 3 seeds each." in words
    assert "takes back 50 % of the loss of 1 run " in words
    assert "of 2 runs of tensor formats: 2 behind." in words


def test_no_share_of_a_loss_within_noise(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("tt", "tt", 12, 0.005)
    study.run("tt_lora", "tt+lora", 11, 0.003, seed=0)
    rows = ask(study, tmp_path, "recovery")
    assert rows["before_perplexity"].notna().all()
    assert rows["share_recovered_percent"].isna().all()
    assert "with a loss beyond noise" in wording.recovery(rows)


def test_share_of_the_published_gap(whole: dict[str, Path], tmp_path: Path) -> None:
    (row,) = records(whole, "head_axis")
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
        half = 1.95996 * STDERR / (BASELINE * math.exp(nats))
        slope = (share(**{name: nats + 1e-6}) - share(**{name: nats - 1e-6})) / 2e-6
        parts.append(slope * half)
    assert row["share_half_width"] == pytest.approx(math.hypot(*parts), rel=1e-4)
    (words,) = wording.head_axis(pd.DataFrame([row]))
    assert "<b>40 % ± 2 of the published gap remains.</b>" in words
    errors = pd.DataFrame(records(whole, "head_axis_errors"))
    assert len(errors) == 4 * LAYERS
    (words,) = wording.head_axis_errors(errors)
    assert "0.500 (0.500 to 0.500) times" in words
    assert f"lower in {LAYERS} of {LAYERS} layers" in words


def test_no_share_of_a_gap_within_noise(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("attention", "tucker_qkvo", 8, 0.2)
    study.run("attention_published", "tucker_qkvo", 8, 0.2)
    (row,) = ask(study, tmp_path, "head_axis").to_dict("records")
    assert row["svd_recipe"] is None or pd.isna(row["svd_recipe"])
    assert "no gap to speak of" in wording.head_axis(pd.DataFrame([row]))[0]
    study.run("svd_whitened", "svd-whitened", 9, 0.2)
    (row,) = ask(study, tmp_path, "head_axis").to_dict("records")
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
    rows = ask(study, tmp_path, "prediction")
    assert len(rows) == len(measured)
    expected = stats.spearmanr(measured, predicted).statistic
    assert rows["spearman"].tolist() == pytest.approx([expected] * len(measured))
    assert f"(Spearman) with the measured loss is {expected:.3f}." in wording.prediction(rows)


def test_tables_show_numbers_for_reading() -> None:
    frame = pd.DataFrame(
        {
            "recipe": ["<b>", None],
            "layers": ["0,1,2,5", "7"],
            "perplexity": [12345.678, math.nan],
            "nats_lost": [-0.0001, 1.5],
            "efficient": [True, False],
        }
    )
    cells = [
        [cell.text for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(pages.table_html(frame), "html.parser").find_all("tr")
    ]
    assert cells == [
        ["recipe", "layers", "perplexity", "nats lost", "efficient"],
        ["<b>", "0-2, 5", "12,346", "0.000", "yes"],
        ["", "7", "", "1.500", ""],
    ]


def parameters(tables: dict[str, Path], notebook: str) -> dict[str, str]:
    return {
        "model": "dense",
        "task": TASKS.get(notebook, "heldout"),
        "queries": str(ROOT / "queries"),
        **{name: str(path) for name, path in tables.items()},
    }


@pytest.fixture(scope="module")
def rendered(
    whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BeautifulSoup]:
    """Every page of the whole study."""
    folder = tmp_path_factory.mktemp("pages")
    names = get_args(Report.model_fields["notebook"].annotation)

    def page(name: str) -> BeautifulSoup:
        target = folder / f"{name}.html"
        render(NOTEBOOKS / f"{name}.ipynb", parameters(whole, name), target)
        return BeautifulSoup(target.read_text(encoding="utf-8"), "html.parser")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(page, names), strict=True))


def test_every_notebook_can_be_named(rendered: dict[str, BeautifulSoup]) -> None:
    assert set(rendered) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


def test_pages_stand_alone_and_hold_no_gaps(rendered: dict[str, BeautifulSoup]) -> None:
    for name, page in rendered.items():
        assert page.title.text == f"{name}: dense"
        assert page.find("h1"), name
        figures = page.find_all("img")
        assert figures, name
        assert all(f["src"].startswith("data:image/") and f["alt"] for f in figures), name
        assert page.find("table", class_="sortable"), name
        outside = page.find_all(lambda tag: str(tag.get("src", "")).startswith("http"))
        assert not outside + page.find_all("link", href=True), name
        for hidden in page(["style", "script"]):
            hidden.extract()
        words = page.body.get_text(" ").replace("(", " ").replace(")", " ").split()
        assert not {"nan", "NaN", "None", "inf", "<NA>", "Traceback"} & set(words), name


def test_the_verdict_page_says_what_the_query_says(
    rendered: dict[str, BeautifulSoup], whole: dict[str, Path]
) -> None:
    rows = pd.DataFrame(records(whole, "verdict"))
    expected = BeautifulSoup(wording.verdict(rows[~rows["with_recovery"]]), "html.parser").text
    assert expected.startswith("Yes, at 20 and 30 %")
    assert rendered["verdict"].find(class_="lead").text == expected
    assert "the rank correlation (Spearman) with the measured loss is 1.000" in (
        rendered["verdict"].get_text()
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML that a page displays, in order."""
    texts: list[str] = []
    monkeypatch.setattr(pages, "display", lambda output: texts.append(output.data))
    return texts


@pytest.mark.parametrize(
    "notebook", sorted({path.stem for path in NOTEBOOKS.glob("*.ipynb")} - set(TASKS))
)
def test_a_study_that_lacks_nearly_all_still_has_pages(
    notebook: str, tmp_path: Path, shown: list[str]
) -> None:
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 8, 0.5)
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                names.update(parameters(study.written(tmp_path), notebook))
    text = BeautifulSoup("".join(shown), "html.parser").get_text(" ")
    assert "nan" not in text.lower().split()
    if notebook == "verdict":
        assert "Undecided" in text
        assert "Missing in this study: RTN-4, RTN-8, whitened SVD, drop." in text
