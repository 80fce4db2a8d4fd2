"""The ``tensorpress`` command: checks, queries, and the DVC side of the workflow."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tensorpress import params, paths
from tensorpress.errors import TensorpressError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a ``TensorpressError`` becomes one line and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except TensorpressError as error:
        print(f"tensorpress: {error}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> None:
    plan = _plan(options)
    counts = {stage: len(live) for stage, live in plan.live().items()}
    print(f"{options.params}: valid; artifacts: {counts}")


def _schema(options: argparse.Namespace) -> None:
    print(json.dumps(params.Params.model_json_schema(), indent=1, sort_keys=True))


def _query(options: argparse.Namespace) -> None:
    from tensorpress.reporting import run_query

    plan = _plan(options)
    tables = {
        "results": paths.results_table(plan.table_id),
        "decompositions": paths.decompositions_table(plan.table_id),
    }
    result = run_query(options.name, tables, paths.QUERIES)
    rows = result.fetchall()
    if options.json:
        records = [dict(zip(result.columns, row, strict=True)) for row in rows]
        print(json.dumps(records, indent=1))
    else:
        _print_table(options.name, result.columns, rows)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # a pipe has no width of its own: do not cut columns
        console = Console(width=40 * max(len(columns), 1))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    console.print(table)


def _stage(options: argparse.Namespace) -> None:
    from tensorpress import tracking

    plan = _plan(options)
    live = plan.live()[options.name]
    tracking.revive(options.name, live)
    command = [sys.executable, "-m", "snakemake", "--", f"stage_{options.name}"]
    if subprocess.run(command, check=False).returncode:
        raise TensorpressError(f"stage {options.name}: snakemake failed, see above")
    tracking.retire(options.name, live)
    if options.name == "aggregate":
        tracking.write_metrics(plan)


def _write_plan(options: argparse.Namespace) -> None:
    from tensorpress import tracking

    tracking.write_plan(_plan(options))


def _record(options: argparse.Namespace) -> None:
    from tensorpress import tracking

    plan = _plan(options)
    live = plan.live()
    missing = [p for artifacts in live.values() for p in artifacts if not Path(p).exists()]
    if missing:
        raise TensorpressError(
            f"record: {len(missing)} artifacts are missing, first {missing[0]}; run snakemake first"
        )
    tracking.write_plan(plan)
    for stage, artifacts in live.items():
        paths.stage(stage).mkdir(parents=True, exist_ok=True)
        tracking.retire(stage, artifacts)
    tracking.write_metrics(plan)
    if subprocess.run(["dvc", "commit", "--force", "--quiet"], check=False).returncode:
        raise TensorpressError("record: dvc commit failed, see above")


def _prune(options: argparse.Namespace) -> None:
    from tensorpress import tracking

    print(f"freed {tracking.prune() / 2**20:.1f} MiB")


def _plan(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from tensorpress.plan import Plan

    try:
        return Plan(params.load(options.params))
    except TensorpressError as error:
        prefix = f"{options.params}: "
        raise TensorpressError(prefix + str(error).removeprefix(prefix)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tensorpress", description=__doc__)
    parser.add_argument("--params", type=Path, default=paths.PARAMS, help="params file")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("check", _check, "validate params.yaml against the models' shapes")
    add("schema", _schema, "print the JSON schema of params.yaml")
    query = add("query", _query, "print the result of queries/NAME.sql")
    query.add_argument("name", help="a file of queries/ without .sql")
    query.add_argument("--json", action="store_true", help="records as JSON instead of a table")
    add("plan-keys", _write_plan, "write the live keys of every stage (DVC's first stage)")
    stage = add("stage", _stage, "run one stage as DVC does: revive, snakemake, retire")
    stage.add_argument("name", choices=paths.STAGES)
    add("record", _record, "hand what snakemake computed to DVC, so that dvc status is clean")
    add("prune", _prune, "delete superseded artifacts kept in results/.attic")
    return parser


if __name__ == "__main__":
    sys.exit(main())
