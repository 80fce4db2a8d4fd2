"""Rule site: all pages of a study, and one for every run, as one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorpress.planning.pages import SiteArtifact
from tensorpress.report.site.folder import write_site


def run(
    site: SiteArtifact,
    pages: Sequence[Path],
    queries: Sequence[Path],
    tables: Mapping[str, Path],
    checkpoints: Mapping[str, Path],
    target: Path,
) -> None:
    """Write the folder; queries lie in one folder, checkpoints may be gone."""
    (folder,) = {query.parent for query in queries}
    write_site(site, pages, folder, tables, checkpoints, target)
