"""Reports and the site that holds them all: what they are and what their keys cover. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tensorpress.config.params import Params, Recipe
from tensorpress.config.reports import Report
from tensorpress.files import paths
from tensorpress.keying.fingerprints import all_modules, code_fingerprint
from tensorpress.keying.keys import file_fingerprint, key
from tensorpress.methods.base import MethodSpec
from tensorpress.planning.identities import job_code
from tensorpress.sources.inputs import DerivedModel
from tensorpress.transforms.base import Transform


@dataclass(frozen=True)
class ReportArtifact:
    """One rendered notebook."""

    name: str
    spec: Report
    key: str

    @property
    def id(self) -> str:
        return f"{self.name}-{self.key}"


@dataclass(frozen=True)
class SiteArtifact:
    """All pages of a study and one for every run, as one folder."""

    reports: tuple[ReportArtifact, ...]
    recipes: Mapping[str, Recipe] = field(repr=False)
    methods: Mapping[str, MethodSpec] = field(repr=False)
    """Settings of what the recipes' steps name."""
    transforms: Mapping[str, tuple[Transform, ...]] = field(repr=False)
    """Of every model that is derived of another one."""
    key: str

    @property
    def id(self) -> str:
        return f"study-{self.key}"


def reports(params: Params, table_id: str) -> list[ReportArtifact]:
    """A page each: tables, notebook, and the content of all queries."""
    made = []
    for name, spec in params.reports.items():
        notebook = paths.notebooks() / f"{spec.notebook}.ipynb"
        content = key(
            stage="reports",
            table=table_id,
            spec=spec.model_dump(),
            files=[_queries(), file_fingerprint(notebook)],
            code=code_fingerprint(job_code("report"), *all_modules("tensorpress.report")),
        )
        made.append(ReportArtifact(name, spec, content))
    return made


def site(params: Params, made: Sequence[ReportArtifact], table_id: str) -> SiteArtifact | None:
    """All pages as one folder: tables, pages, queries, and the settings that it shows."""
    if not made:
        return None
    named = {step.method for recipe in params.recipes.values() for step in recipe.steps}
    methods = {name: spec for name, spec in params.methods.items() if name in named}
    derived = {
        name: model.transform
        for name, model in params.models.items()
        if isinstance(model, DerivedModel)
    }
    content = key(
        stage="site",
        table=table_id,
        reports=[each.id for each in made],
        recipes={name: each.model_dump(mode="json") for name, each in params.recipes.items()},
        methods={name: each.model_dump(mode="json") for name, each in methods.items()},
        transforms={name: [t.model_dump(mode="json") for t in ts] for name, ts in derived.items()},
        queries=_queries(),
        code=code_fingerprint(job_code("site")),
    )
    return SiteArtifact(tuple(made), params.recipes, methods, derived, content)


def _queries() -> str:
    return file_fingerprint(*sorted(paths.queries().glob("*.sql")))
