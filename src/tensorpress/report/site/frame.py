"""What every page of a site has: a title, the bar of links, and how it looks."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tensorpress.config.reports import NOTEBOOKS
from tensorpress.planning.pages import ReportArtifact
from tensorpress.report.pages import page_style

STYLE = Path(__file__).with_name("site.css")
INDEX, PAGES, RUNS = "index.html", "pages", "runs"
"""Where pages lie in a site's folder."""


def page_of(report: ReportArtifact) -> str:
    """Where a report lies in a site."""
    return f"{PAGES}/{report.name}.html"


def file_of(run: str) -> str:
    """The name, without an ending, of what a site has of a run (its column in the results)."""
    return run.rpartition("/")[2]


def quoted(run: str) -> str:
    """The same in an address."""
    return quote(file_of(run))


@dataclass(frozen=True)
class Frame:
    """The bar of links, the same on all pages but for where it stands."""

    reports: Sequence[ReportArtifact]

    @property
    def of_models(self) -> Mapping[str, list[ReportArtifact]]:
        """Reports by the model that they are of."""
        models = dict.fromkeys(report.spec.model for report in self.reports)
        return {m: [r for r in self.reports if r.spec.model == m] for m in models}

    def document(self, title: str, body: str, at: str) -> str:
        """A page of its own; ``at``: where it lies in the site."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title></head>\n<body>"
            f'{page_style()}{self._bar(at)}<main id="content">{body}</main></body>\n</html>\n'
        )

    def around(self, page: str, at: str) -> str:
        """A report's page, which stands alone, with the bar of links."""
        page = page.replace("<main>", '<main id="content">', 1)
        return re.sub(r"<body[^>]*>", lambda found: found[0] + self._bar(at), page, count=1)

    def _bar(self, at: str) -> str:
        up = "../" * at.count("/")
        here = ' aria-current="page"'
        menus = "".join(
            f"<details><summary>{html.escape(model)}</summary><ul>"
            + "".join(
                f'<li><a href="{up}{page_of(report)}"{here * (page_of(report) == at)}'
                f' title="{html.escape(NOTEBOOKS[report.spec.notebook].about)}">'
                f"{html.escape(report.name)}</a></li>"
                for report in reports
            )
            + "</ul></details>"
            for model, reports in self.of_models.items()
        )
        return (
            f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
            '<a class="skip" href="#content">Skip to the content</a>'
            f'<nav class="site" aria-label="Pages of the study" data-runs="{up}{RUNS}/">'
            f'<a href="{up}{INDEX}"{here * (at == INDEX)}>All runs</a>{menus}</nav>'
        )
