"""Pages of a study that was never run stand alone, and have no gaps where it has some."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.stages import ask
from support.study import Study
from support.workspace import ROOT

from tensorpress.config.reports import NOTEBOOKS
from tensorpress.report import frontier, pages, tables, wording
from tensorpress.report.queries import render

FOLDER = ROOT / "notebooks"


TASKS = {
    "perplexity": "heldout",
    "geometry": "geometry",
    "heterogeneity": "mismatch",
    "best_of_family": "family",
    "moe": "experts",
    "restoration": "restoration",
}
"""The task of each kind in ``support.study``."""


def test_tables_show_numbers_for_reading() -> None:
    frame = pd.DataFrame(
        {
            "recipe": ["<b>", None],
            "layers": ["0,1,2,5", "7"],
            "perplexity": [12345.678, math.nan],
            "high": [3.456e11, 99_999.4],
            "checkpoint_bytes": [4e6, 5e8],
            "nats_lost": [-0.0001, 1.5],
            "efficient": [True, False],
        }
    )
    cells = [
        [cell.text for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(tables.table_html(frame), "html.parser").find_all("tr")
    ]
    assert cells == [
        ["recipe", "layers", "perplexity", "high", "checkpoint bytes", "nats lost", "efficient"],
        ["<b>", "0-2, 5", "12,346", "3.46·10^11", "4,000,000", "0.000", "yes"],
        ["", "7", "", "99,999", "500,000,000", "1.500", ""],
    ]


def parameters(tables: dict[str, Path], notebook: str) -> dict[str, str]:
    return {
        "model": "dense",
        "task": TASKS[NOTEBOOKS[notebook].kind],
        "queries": str(ROOT / "queries"),
        **{name: str(path) for name, path in tables.items()},
    }


@pytest.fixture(scope="module")
def rendered(
    whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BeautifulSoup]:
    """Every page of the whole study."""
    folder = tmp_path_factory.mktemp("pages")

    def page(name: str) -> BeautifulSoup:
        target = folder / f"{name}.html"
        render(FOLDER / f"{name}.ipynb", parameters(whole, name), target)
        return BeautifulSoup(target.read_text(encoding="utf-8"), "html.parser")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(NOTEBOOKS, pool.map(page, NOTEBOOKS), strict=True))


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
    rows = ask("verdict", whole)
    expected = BeautifulSoup(wording.verdict(rows[~rows["with_recovery"]]), "html.parser").text
    assert expected.startswith("Yes, at 20 and 30 %")
    page = rendered["verdict"]
    assert expected in page.get_text()
    at_loss = frontier.at_loss(ask("bits_at_loss", whole))
    assert page.find(class_="lead").text == BeautifulSoup(at_loss, "html.parser").text
    assert page.find(class_="chart")
    assert (
        page.find("noscript")
        .find("img")["alt"]
        .startswith("Loss over the uncompressed model against")
    )
    assert "the rank correlation (Spearman) with the measured loss is 1.000" in (
        rendered["verdict"].get_text()
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML that a page displays, in order."""
    texts: list[str] = []
    monkeypatch.setattr(pages, "display", lambda output: texts.append(output.data))
    return texts


def test_pages_say_what_the_baseline_was_dequantised_from(tmp_path: Path, shown: list[str]) -> None:
    study = Study()
    study.baseline()
    plain = {name: str(path) for name, path in study.written(tmp_path).items()}
    queries = str(ROOT / "queries")
    pages.Page("dense", "heldout", queries=queries, **plain).title("A page")
    assert BeautifulSoup(shown[-1], "html.parser").text == "A pageModel dense"
    study.results = [
        replace(row, source_quantisation="GPTQ, 4 bits", source_bits=450, dense_bits=1600)
        for row in study.results
    ]
    study.written(tmp_path)
    pages.Page("dense", "heldout", queries=queries, **plain).title("A page")
    text = BeautifulSoup(shown[-1], "html.parser").text
    assert "Model dense, whose uncompressed weights were dequantised from GPTQ, 4 bits." in text
    assert "28.1 % of the bits that savings are counted against" in text
    pages.Page("dense", "heldout", queries=queries, **plain).title("A page", of="All models")
    assert "dequantised" not in shown[-1]


@pytest.mark.parametrize(
    "notebook", [name for name, each in NOTEBOOKS.items() if each.kind == "perplexity"]
)
def test_a_study_that_lacks_nearly_all_still_has_pages(
    notebook: str, tmp_path: Path, shown: list[str]
) -> None:
    study = Study()
    study.baseline()
    study.run("tt_ffn", "tt", 8, 0.5)
    cells = json.loads((FOLDER / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
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
