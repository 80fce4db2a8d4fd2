"""Queries over the results tables, and notebooks rendered from them to HTML."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import duckdb
from duckdb.func import FunctionNullHandling

from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.objectives.registry import quality_metrics
from tensorpress.report.paired import (
    Difference,
    difference,
    difference_of_best,
    mcnemar,
    mean_half_width,
    t_quantile,
    two_sided,
)

HALF_WIDTH = """
CREATE MACRO half_width(deviation, of_observations, stderr, stderr_samples, n) AS CASE
    WHEN n > 1 THEN t95(n - 1) * deviation / sqrt(n)
    WHEN of_observations IS NOT NULL THEN of_observations
    WHEN stderr_samples > 1 THEN t95(stderr_samples - 1) * stderr
END;
"""
"""Of the 95 % interval of a mean of n values, or of one value by its observations, or by its
standard error where they were not kept, estimated from so many samples; NULL of a single one."""

BETWEEN_RUNS = """
CREATE MACRO between_runs(found, one, other) AS struct_pack(
    nats := CASE
        WHEN found IS NULL THEN ln(other.perplexity / one.perplexity)
        ELSE struct_extract(found, 'mean')
    END,
    half_width := CASE
        WHEN found IS NULL THEN sqrt(one.nats_half_width ** 2 + other.nats_half_width ** 2)
        ELSE sqrt(
            struct_extract(found, 'half_width') ** 2
            + one.seeds_half_width ** 2 + other.seeds_half_width ** 2
        )
    END,
    degrees := struct_extract(found, 'degrees'),
    paired := found IS NOT NULL
);
"""
"""Loss of ``other`` over ``one``, rows of ``losses``: of their windows, as ``found``, with what
seeds add; of two that cannot be paired, as if they had read different texts."""

LIST, DIFFERENCE = "DOUBLE[]", "STRUCT(mean DOUBLE, half_width DOUBLE, degrees BIGINT)"


def connect() -> duckdb.DuckDBPyConnection:
    """An empty database whose queries may call ``half_width``, and ``t95(degrees of freedom)``.

    They may call ``difference``, ``difference_of_best``, ``mean_half_width``, ``two_sided`` and
    ``mcnemar`` as well, as in ``report.paired``, and read ``quality_metrics``: by which models of
    each objective are judged.
    """
    connection = duckdb.connect()
    connection.create_function("t95", t_quantile, ["BIGINT"], "DOUBLE")
    connection.execute(HALF_WIDTH)
    connection.execute(BETWEEN_RUNS)
    functions: Sequence[tuple[str, Callable[..., Any], list[Any], str]] = (
        ("difference", _as_struct(difference), [LIST] * 2, DIFFERENCE),
        ("difference_of_best", _as_struct(difference_of_best), [LIST] * 4, DIFFERENCE),
        ("mean_half_width", mean_half_width, [LIST], "DOUBLE"),
        ("mcnemar", mcnemar, [LIST] * 2, "DOUBLE"),
        ("two_sided", _two_sided, ["DOUBLE", "DOUBLE", "BIGINT"], "DOUBLE"),
    )
    for name, function, given, returned in functions:
        connection.create_function(
            name, function, given, returned, null_handling=FunctionNullHandling.SPECIAL
        )
    connection.execute("CREATE TABLE quality_metrics (metric VARCHAR)")
    for metric in quality_metrics():
        connection.execute("INSERT INTO quality_metrics VALUES (?)", [metric])
    return connection


def _as_struct(
    function: Callable[..., Difference | None],
) -> Callable[..., dict[str, float] | None]:
    @wraps(function)  # duckdb counts parameters
    def wrapped(*lists: Sequence[float] | None) -> dict[str, float] | None:
        found = function(*lists)
        return None if found is None else asdict(found)

    return wrapped


def _two_sided(mean: float | None, half_width: float | None, degrees: int | None) -> float | None:
    return None if mean is None or half_width is None else two_sided(mean, half_width, degrees)


def run_query(
    name: str, tables: Mapping[str, Path], queries: Path, hint: str = "run snakemake first"
) -> duckdb.DuckDBPyRelation:
    """Result of ``<queries>/<name>.sql`` over Parquet files, each visible under its table name.

    A query may read others by their names, and call what ``connect`` defines. ``hint``: what to do
    where a file is missing. ``TensorpressError`` for an unknown name, a missing file, or tables
    without a column that the query reads.
    """
    known = sorted(p.stem for p in queries.glob("*.sql"))
    if name not in known:
        raise TensorpressError(f"query: {name!r} is not allowed; allowed: {', '.join(known)}")
    for file in tables.values():
        if not file.is_file():
            raise TensorpressError(f"query: {file} is missing; {hint}")
    connection = connect()
    for table, file in tables.items():
        try:
            connection.read_parquet(str(file)).create_view(table)
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            raise TensorpressError(f"query: {file} cannot be read: {said}") from error
    return _relation(connection, name, queries, {*tables, name})


def _relation(
    connection: duckdb.DuckDBPyConnection, name: str, queries: Path, defined: set[str]
) -> duckdb.DuckDBPyRelation:
    """A query's result, after the queries that it reads were made views; ``defined`` grows."""
    text = (queries / f"{name}.sql").read_text(encoding="utf-8")
    for other in re.findall(r"\b(?:FROM|JOIN) (\w+)", text):
        if other not in defined and (queries / f"{other}.sql").is_file():
            defined.add(other)
            _relation(connection, other, queries, defined).create_view(other)
    try:
        return connection.sql(text)
    except duckdb.BinderException as error:
        said = str(error).splitlines()[0]
        raise TensorpressError(
            f"query: {name} does not fit these tables: {said}; allowed: tables of this version"
        ) from error


def render(notebook: Path, parameters: Mapping[str, str], target: Path) -> None:
    """Execute a notebook with papermill and write it as one self-contained HTML page.

    A notebook is given those of the parameters that it has. ``TensorpressError`` names a cell that
    fails.
    """
    # slow imports that queries do without
    import nbconvert
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from tensorpress.running.kernel import ForkedKernelManager

    taken = papermill.inspect_notebook(notebook)
    given = {name: value for name, value in parameters.items() if name in taken}
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                given,
                kernel_name="python3",
                kernel_manager_class=ForkedKernelManager,
                progress_bar=False,
            )
        except PapermillExecutionError as error:
            raise TensorpressError(
                f"{notebook}: cell {error.exec_count} failed: {error.ename}: {error.evalue}"
            ) from error
        exporter = nbconvert.HTMLExporter(exclude_input=True, exclude_input_prompt=True)
        # the pages hold no formulas, and a script from a network would not load offline
        exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
        exporter.exclude_output_prompt = True
        page = nbformat.read(executed, as_version=4)
        page.metadata["title"] = f"{notebook.stem}: {parameters['model']}"
        html, _ = exporter.from_notebook_node(page)
        # left of what was not to be loaded
        html = re.sub(r'<script src="">\s*</script>', "", html)
    with replacing(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
