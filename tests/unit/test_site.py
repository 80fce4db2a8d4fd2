"""The site of a study that was never run: every link leads somewhere, nothing is there twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from support.stages import ask
from support.study import method_spec
from support.workspace import ROOT

from tensorpress.config.params import Recipe
from tensorpress.config.reports import Report
from tensorpress.planning.pages import ReportArtifact, SiteArtifact
from tensorpress.report import frontier
from tensorpress.report.pages import chart_html, charts_script, page_style
from tensorpress.report.site.shared import with_assets
from tensorpress.stages import site

REPORTS = tuple(
    ReportArtifact(name, Report(notebook=notebook, model="dense", task="heldout"), "key")
    for name, notebook in (("verdict-dense", "verdict"), ("frontier-too", "pareto"))
)
LONG = "p { color: red; }\n" * 30
FULL = "gptq"
"""The run whose ``plan.json`` is there."""


def standing_alone(rows: pd.DataFrame) -> str:
    """A page with a chart, as nbconvert lays it out."""
    chart = chart_html(frontier.picture(rows), frontier.caption(rows), "chart-1")
    return (
        f'<html lang="en"><head><title>p</title><style type="text/css">{LONG}</style></head>'
        f'<body class="jp-Notebook"><main><h1>A page</h1>{page_style()}{charts_script()}{chart}'
        "</main></body></html>"
    )


@pytest.fixture(scope="module")
def folder(whole: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, and beside it the page that it was given twice."""
    home = tmp_path_factory.mktemp("site")
    page = home / "page.html"
    page.write_text(standing_alone(ask("frontier", whole)), encoding="utf-8")
    results = pd.read_parquet(whole["results"])
    recipe = Recipe(
        models=("dense",), steps=({"modules": ("ffn",), "method": "tt"},), layers=("two",),
        tasks=("heldout",), rounding={"bits": 4},
    )  # fmt: skip
    entry = {
        "layer": 1, "module": "ffn.up", "method": "tt", "settings": {}, "format": "tt_matrix",
        "ranks": {"ranks": [1, 32, 1]}, "relative_error": 0.25, "rounding_error": 0.0,
        "stack": ["ffn.up"], "stack_bits": 835584, "dense_bits": 1572864,
    }  # fmt: skip
    (home / "plan.json").write_text(json.dumps({"dtype": "float16", "modules": [entry]}))
    recipes = dict.fromkeys(results["recipe"].unique(), recipe)
    study = SiteArtifact(REPORTS, recipes, {"tt": method_spec("tt")}, {}, "key")
    run = results.loc[results["recipe"] == FULL, "run"].min()
    tables = {name: whole[name] for name in ("results", "decompositions")}
    queries = sorted((ROOT / "queries").glob("*.sql"))
    site.run(study, [page, page], queries, tables, {run: home}, home / "made")
    return home / "made"


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[Path, BeautifulSoup]:
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in folder.rglob("*.html")
    }


def test_every_link_leads_to_a_file(folder: Path, pages: dict[Path, BeautifulSoup]) -> None:
    assert {path.parent.name for path in pages} == {folder.name, "pages", "runs"}
    led_to = set()
    for path, page in pages.items():
        for tag in page.find_all(lambda tag: tag.get("href") or tag.get("src")):
            where = str(tag.get("href") or tag.get("src"))
            if where.startswith("#"):
                assert page.find(id=where[1:]), (path, where)
            elif not where.startswith("data:image/"):
                target = (path.parent / unquote(where)).resolve()
                assert target.is_file(), (path, where)
                led_to.add(target)
    assert led_to >= set(pages)


def test_every_run_has_a_page_that_its_mark_leads_to(
    folder: Path, pages: dict[Path, BeautifulSoup], whole: dict[str, Path]
) -> None:
    rows = ask("frontier", whole)
    for run in rows["run"]:
        assert folder / "runs" / f"{run.rpartition('/')[2]}.html" in pages
    for path, page in pages.items():
        (bar,) = page.find_all("nav")
        assert (path.parent / bar["data-runs"]).resolve() == folder / "runs"
    index = pages[folder / "index.html"]
    lead = frontier.at_loss(ask("bits_at_loss", whole))
    assert index.find(class_="lead").text == BeautifulSoup(lead, "html.parser").text
    cells = [row.find("td").text for row in index.find("table").find_all("tr")[1:]]
    assert {*rows["recipe"], "baseline"} <= set(cells)


def test_pictures_have_words_and_what_is_large_is_there_once(
    folder: Path, pages: dict[Path, BeautifulSoup]
) -> None:
    for path, page in pages.items():
        assert all(picture["alt"] for picture in page.find_all("img")), path
        assert page.find("h1"), path
        assert page.find("main", id="content"), path
        assert len(page.find_all(id=True)) == len({tag["id"] for tag in page.find_all(id=True)})
    (large,) = [path for path in folder.rglob("*") if path.stat().st_size > 500_000]
    assert "vegaEmbed" in large.read_text(encoding="utf-8")
    assert large.parent == folder / "assets"
    assert not any(LONG in path.read_text(encoding="utf-8") for path in pages)


def test_a_run_s_page_says_what_was_done(
    folder: Path, pages: dict[Path, BeautifulSoup], whole: dict[str, Path]
) -> None:
    every = ask("every_run", whole).set_index("recipe")
    run = every.loc[[FULL], "run"].min().rpartition("/")[2]
    page = pages[folder / f"runs/{run}.html"]
    assert f"{run}.json" in [unquote(link["href"]) for link in page.find_all("a")]
    text = page.get_text(" ")
    assert "ranks [1, 32, 1]" in text
    assert re.search(r"rounding\s+bits: 4", text)
    metrics = ask("run_metrics", whole)
    perplexity = metrics[(metrics["recipe"] == FULL) & (metrics["metric"] == "perplexity")].iloc[0]
    assert f"{perplexity['value']:.4f}" in text
    (other,) = [path for path in pages if path.name.startswith("int8-")]
    assert "plan.json" not in pages[other].get_text()


def test_parts_of_one_page_alone_stay_in_it() -> None:
    style, own = f"<style>{LONG}</style>", f"<style>b{LONG}</style>"
    module = f'<script type="module">{LONG}</script>'
    made = with_assets({"a.html": style + own + module, "b/c.html": style + module})
    (asset,) = [name for name in made if name.startswith("assets/")]
    assert made[asset] == LONG
    assert made["a.html"] == f'<link rel="stylesheet" href="{asset}">{own}{module}'
    assert made["b/c.html"] == f'<link rel="stylesheet" href="../{asset}">{module}'


SEEN = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement, count = what => document.querySelectorAll(what).length;
  parent.postMessage(JSON.stringify({
    width: root.clientWidth, over: root.scrollWidth - root.clientWidth,
    charts: count(".chart svg"), marks: count(".chart [role=link]"),
  }), "*");
}, 500));
</script>
"""
FRAME = """
<title></title><script>addEventListener("message", event => document.title += event.data);</script>
<iframe src="{name}" width="{width}" height="900" frameborder="0"></iframe>
"""
"""No window is as narrow as a telephone."""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(folder: Path, tmp_path: Path, width: int) -> None:
    """Nothing is said on the console, nothing is cut off, marks can be reached by keys."""
    copy = shutil.copytree(folder, tmp_path / "site")
    run = next(copy.glob(f"runs/{FULL}*.html"))
    for page in (copy / "index.html", copy / "pages/verdict-dense.html", run):
        page.write_text(page.read_text(encoding="utf-8") + SEEN, encoding="utf-8")
        holder = page.with_name("holder.html")
        holder.write_text(FRAME.format(name=page.name, width=width), encoding="utf-8")
        seen, said = shown(holder, tmp_path)
        assert "CONSOLE" not in said, said
        assert seen["width"] <= width
        assert seen["over"] <= 0, page
        assert bool(seen["marks"]) == bool(seen["charts"]) == (page != run), page


LEAVE = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  document.querySelector(".chart [role=link]").dispatchEvent(EVENT);
}, 500));
</script>
"""
ARRIVED = "<script>parent.postMessage(JSON.stringify(location.pathname), '*');</script>"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    "event",
    ['new MouseEvent("click", {bubbles: true})', 'new KeyboardEvent("keydown", {key: "Enter"})'],
)
def test_a_mark_leads_to_its_run(folder: Path, tmp_path: Path, event: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "site")
    for run in copy.glob("runs/*.html"):
        run.write_text(run.read_text(encoding="utf-8") + ARRIVED, encoding="utf-8")
    page = copy / "pages/verdict-dense.html"
    left = LEAVE.replace("EVENT", event)
    page.write_text(page.read_text(encoding="utf-8") + left, encoding="utf-8")
    holder = page.with_name("holder.html")
    holder.write_text(FRAME.format(name=page.name, width=1280), encoding="utf-8")
    where, _ = shown(holder, tmp_path)
    assert Path(unquote(where)) in copy.glob("runs/*.html")


def shown(page: Path, home: Path) -> tuple[Any, str]:
    """What the page in a frame said to it, and what the browser said."""
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--enable-logging=stderr", "--virtual-time-budget=8000", "--window-size=1400,1000",
         "--dump-dom", page.as_uri()],
        env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    title = BeautifulSoup(done.stdout, "html.parser").title
    return json.loads(title.text), done.stderr
