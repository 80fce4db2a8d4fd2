"""A site as files: its pages by their place in the folder, and what they share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tensorpress.files.atomic import replacing
from tensorpress.planning.pages import SiteArtifact
from tensorpress.report.queries import run_query
from tensorpress.report.site import index, runs
from tensorpress.report.site.frame import INDEX, RUNS, Frame, file_of, page_of
from tensorpress.report.site.shared import with_assets


def write_site(
    study: SiteArtifact,
    pages: Sequence[Path],
    queries: Path,
    tables: Mapping[str, Path],
    checkpoints: Mapping[str, Path],
    target: Path,
) -> None:
    """Write the folder ``target``; ``pages`` in the order of the study's reports.

    ``checkpoints``: run (its column in the results) -> folder where the ``plan.json`` of its
    factors lies, if it is there still.
    """
    frame = Frame(study.reports)
    asked = dict.fromkeys([*index.QUERIES, *runs.QUERIES])
    rows = {name: run_query(name, tables, queries).df() for name in asked}
    every = runs.RunPages.of(study, rows, pd.read_parquet(tables["decompositions"]), checkpoints)
    made = {INDEX: frame.document("Results of the study", index.index_html(frame, rows), INDEX)}
    for report, page in zip(study.reports, pages, strict=True):
        place = page_of(report)
        made[place] = frame.around(page.read_text(encoding="utf-8"), place)
    for run, title, body in every.bodies():
        place = f"{RUNS}/{file_of(run)}.html"
        made[place] = frame.document(title, body, place)
    with replacing(target) as temporary:
        for place, text in with_assets(made).items():
            file = temporary / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        for run, manifest in every.manifests.items():
            shutil.copyfile(manifest, temporary / f"{RUNS}/{file_of(run)}.json")
