"""Queries over the results tables, and notebooks rendered from them to HTML."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import duckdb
import nbconvert
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from tensorpress.atomic import replacing
from tensorpress.errors import TensorpressError


def run_query(name: str, tables: Mapping[str, Path], queries: Path) -> duckdb.DuckDBPyRelation:
    """Result of ``<queries>/<name>.sql`` over Parquet files, each visible under its table name."""
    path = queries / f"{name}.sql"
    known = sorted(p.stem for p in queries.glob("*.sql"))
    if name not in known:
        raise TensorpressError(f"query: {name!r} is not allowed; allowed: {', '.join(known)}")
    for file in tables.values():
        if not file.is_file():
            raise TensorpressError(f"query: {file} is missing; run snakemake or dvc pull first")
    connection = duckdb.connect()
    for table, file in tables.items():
        connection.read_parquet(str(file)).create_view(table)
    return connection.sql(path.read_text(encoding="utf-8"))


def render(notebook: Path, parameters: Mapping[str, str], target: Path) -> None:
    """Execute a notebook with papermill and write it as one self-contained HTML page."""
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook, executed, dict(parameters), kernel_name="python3", progress_bar=False
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
        page.metadata["title"] = notebook.stem
        html, _ = exporter.from_notebook_node(page)
    with replacing(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
