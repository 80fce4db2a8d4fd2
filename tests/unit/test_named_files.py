"""Pages, docstrings and comments name only files that the project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.workspace import ROOT

NAMED = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|sql|smk|ipynb|yaml|toml))(?::\w+)?`")
"""A file in code quotes; of a placeholder like NAME.sql there is none."""
HOW_TO = re.compile(r"adding-a-\w+\.md")
"""Pages that tell to write files, which tests/unit/test_docs.py does."""


def texts() -> list[Path]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    code = [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("rules/*.smk")]
    return [path for path in (*pages, *code) if not HOW_TO.fullmatch(path.name)]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of all files, each alone, with its folder, with the folder of that, and so on."""
    own = ("src", "docs", "tests", "rules", "queries", "notebooks", "studies", "benchmarks")
    own += ("profiles", "envs", "workflow_scripts")
    found = [path for folder in own for path in (ROOT / folder).rglob("*.*")]
    parts = [path.relative_to(ROOT).parts for path in (*found, *ROOT.glob("*.*"))]
    return {"/".join(each[first:]) for each in parts for first in range(len(each))}


def test_named_files_are_there(known: set[str]) -> None:
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in texts()
        for name in NAMED.findall(path.read_text(encoding="utf-8"))
        if not name.removesuffix(".sql").rpartition("/")[2].isupper()
    }
    assert len(named) > 100
    assert not sorted(each for each in named if each[1] not in known)
