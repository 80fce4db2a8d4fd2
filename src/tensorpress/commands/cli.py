"""The ``tensorpress`` command: checks, queries, and the DVC side of the workflow."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tensorpress.commands import workflow
from tensorpress.commands.parser import parsed
from tensorpress.commands.tables import print_table
from tensorpress.config import params
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import redacted
from tensorpress.files import paths
from tensorpress.files.strict_json import strict_json
from tensorpress.planning.jobs import live_jobs, live_paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what the user can mend becomes one line and exit status 1."""
    options = parsed(arguments)
    try:
        COMMANDS[options.command](options)
    except BrokenPipeError:  # who reads has enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TensorpressError, OSError) as error:
        print(redacted(f"tensorpress: {error}"), file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> None:
    plan = _plan(options)
    counts = {stage: len(live) for stage, live in live_paths(plan).items()}
    if options.json:
        print(strict_json(counts))
    else:
        needed = ", ".join(f"{stage} {count}" for stage, count in counts.items() if count)
        print(f"{options.params}: valid; artifacts: {needed}")


def _schema(options: argparse.Namespace) -> None:
    print(strict_json(params.Params.model_json_schema(), sort_keys=True))


def _families(options: argparse.Namespace) -> None:
    from tensorpress.commands import families

    found = families.rows(options.types or families.all_types())
    if options.json:
        print(strict_json([dict(zip(families.COLUMNS, row, strict=True)) for row in found]))
    else:
        print(families.page(found))


def _query(options: argparse.Namespace) -> None:
    from tensorpress.report.queries import run_query

    plan = _plan(options)
    tables = {
        "results": paths.results_table(plan.table_id),
        "decompositions": paths.decompositions_table(plan.table_id),
        "jobs": paths.jobs_table(plan.table_id),
    }
    hint = f"run {workflow.typed(options.params)} or dvc pull first"
    result = run_query(options.name, tables, paths.queries(), hint)
    rows = result.fetchall()
    if options.json:
        records = [dict(zip(result.columns, row, strict=True)) for row in rows]
        print(strict_json(records))
    else:
        print_table(options.name, result.columns, rows)


def _init(options: argparse.Namespace) -> None:
    from tensorpress.commands.init import init

    print(init(options.model, options.text, options.minutes), end="")


def _sizes(options: argparse.Namespace) -> None:
    from tensorpress.commands import plan

    study: params.Params | None = None
    unfit: list[str] = []
    if options.config.suffix in (".yaml", ".yml"):
        study = params.load(options.config)
        found = plan.study_sizes(study)
    else:
        found, unfit = plan.checkpoint_sizes(options.config, params.load(options.params))
    for line in unfit:
        print(f"tensorpress: {line}", file=sys.stderr)
    if options.json:
        print(strict_json([size.as_dict() for size in found]))
        return
    print_table(str(options.config), plan.COLUMNS, plan.rows(found))
    if study is not None and plan.has_weights(study):
        _forecast(study)


def _forecast(study: params.Params) -> None:
    from tensorpress.commands import forecast
    from tensorpress.planning.plan import Plan

    plan = Plan(study)
    first = next(iter(plan.models.values())).architecture
    machine = forecast.machine_of(first, study.compute.dtype)
    print_table(f"foreseen here: {machine}", forecast.COLUMNS, forecast.rows(plan, machine))


def _run(options: argparse.Namespace) -> None:
    workflow.run(options.params, options.rest)


def _copy(options: argparse.Namespace) -> None:
    written = str(workflow.copy(options.part))
    print(strict_json({"written": written}) if options.json else f"{written}: copied")


def _stage(options: argparse.Namespace) -> None:
    from tensorpress.commands import tracking
    from tensorpress.running import records

    plan = _plan(options)
    live = live_paths(plan)[options.name]
    records.this_run(os.getppid())  # the stages of one dvc repro are one run
    tracking.restore_from_attic(options.name, live)
    command = workflow.snakemake("--", f"stage_{options.name}")
    if subprocess.run(command, check=False).returncode:
        raise TensorpressError(f"stage {options.name}: snakemake failed, see above")
    paths.stage(options.name).mkdir(parents=True, exist_ok=True)  # a study may need none of it
    tracking.move_to_attic(options.name, live)
    if options.name == "aggregate":
        tracking.write_metrics(plan)


def _write_plan(options: argparse.Namespace) -> None:
    from tensorpress.commands import tracking

    tracking.write_plan(_plan(options))


def _record(options: argparse.Namespace) -> None:
    from tensorpress.commands import tracking

    plan = _plan(options)
    live = live_paths(plan)
    missing = [p for artifacts in live.values() for p in artifacts if not Path(p).exists()]
    if missing:
        raise TensorpressError(
            f"record: {len(missing)} artifacts are missing, first {missing[0]}; "
            f"run {workflow.typed(options.params)} first"
        )
    tracking.write_plan(plan)
    for stage, artifacts in live.items():
        paths.stage(stage).mkdir(parents=True, exist_ok=True)
        tracking.move_to_attic(stage, artifacts)
    tracking.write_metrics(plan)
    tracking.commit()


def _status(options: argparse.Namespace) -> None:
    from tensorpress.commands import status

    found = status.status(live_jobs(_plan(options)))
    if options.json:
        print(strict_json(found))
        return
    print_table(str(options.params), status.STAGE_COLUMNS, status.stage_rows(found))
    if found.running:
        print_table("running", status.RUNNING_COLUMNS, status.running_rows(found.running))
    if found.failed:
        print_table("failed", status.FAILED_COLUMNS, status.failed_rows(found.failed))


def _advise(options: argparse.Namespace) -> None:
    from tensorpress.commands.advise import advise, rows

    advice = advise(
        options.model, params.load(options.params), options.saved, not options.no_rounding
    )
    if options.json:
        print(strict_json(advice))
        return
    title = (
        f"{options.model}: {100 * (1 - advice.stored_bits / advice.dense_bits):.1f} % saved, "
        f"predicted damage {advice.damage:.4g} nats per token"
    )
    columns = ("layer", "modules", "use", "saved %", "nats", "MACs", "best factors", "nats")
    print_table(title, columns, rows(advice))


def _doctor(options: argparse.Namespace) -> None:
    from tensorpress.commands import doctor

    found = doctor.doctor(params.load(options.params))
    if options.json:
        print(strict_json([each.model_dump() for each in found]))
    else:
        print_table(str(options.params), doctor.COLUMNS, doctor.rows(found))
    if wrong := [each.what for each in found if each.fits is False]:
        raise TensorpressError(f"doctor: not enough: {', '.join(wrong)}; see above")


def _compare(options: argparse.Namespace) -> None:
    from tensorpress.commands import compare

    found = compare.compare(options.first, options.second)
    if options.json:
        print(strict_json(found))
        return
    if found.settings is not None:
        print_table("settings", compare.SETTINGS, compare.setting_rows(found.settings))
    if found.numbers is not None:
        rows = compare.number_rows(found.numbers.of_both)
        print_table("numbers", compare.NUMBERS, rows)
        print(
            f"{len(found.numbers.of_both) - len(rows)} numbers are the same in both, "
            f"{len(found.numbers.only_first)} are in {options.first} alone, "
            f"{len(found.numbers.only_second)} in {options.second} alone"
        )
    for line in found.missing:
        print(line, file=sys.stderr)


def _densify(options: argparse.Namespace) -> None:
    from tensorpress.commands.densify import densify

    densify(options.source, options.target)
    written = {"written": str(options.target)}
    print(strict_json(written) if options.json else f"{options.target}: dense")


def _export(options: argparse.Namespace) -> None:
    from tensorpress.commands.export import export

    packed, dense = export(options.source, options.target)
    if options.json:
        found = {"written": str(options.target), "packed_layers": packed, "dense_modules": dense}
        print(strict_json(found))
        return
    words = f"{options.target}: {packed} linear layers in compressed-tensors"
    print(f"{words}, {dense} other compressed modules dense" if dense else words)


def _prune(options: argparse.Namespace) -> None:
    from tensorpress.commands import tracking

    freed = tracking.prune()
    print(strict_json({"freed_bytes": freed}) if options.json else f"freed {freed / 2**20:.1f} MiB")


def _plan(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from tensorpress.planning.plan import Plan

    try:
        return Plan(params.load(options.params))
    except TensorpressError as error:
        prefix = f"{options.params}: "
        raise TensorpressError(prefix + str(error).removeprefix(prefix)) from error


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "init": _init,
    "copy": _copy,
    "check": _check,
    "doctor": _doctor,
    "plan": _sizes,
    "advise": _advise,
    "run": _run,
    "status": _status,
    "query": _query,
    "compare": _compare,
    "densify": _densify,
    "export": _export,
    "prune": _prune,
    "record": _record,
    "stage": _stage,
    "plan-keys": _write_plan,
    "schema": _schema,
    "families": _families,
}
"""What runs, by the name of the command (``parser``)."""


if __name__ == "__main__":
    sys.exit(main())
