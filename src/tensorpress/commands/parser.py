"""What the ``tensorpress`` command understands: subcommands in groups, their options and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import shtab

from tensorpress.commands.workflow import COPIED
from tensorpress.files import paths

EPILOG = """
examples:
  tensorpress init ../checkpoints/mine --text mine.txt > study.yaml   a study for a checkpoint
  tensorpress --params study.yaml doctor                              will this machine do?
  tensorpress run --configfile study.yaml                             run it
  tensorpress --params study.yaml query verdict                       what it found
  tensorpress --params study.yaml advise mine --saved 0.2             what to use for each module
  tensorpress export results/assemble/... served                      for servers of such models
  eval "$(tensorpress --print-completion bash)"                       tab completes commands

exit status: 0, done; 1, one line on stderr says what to mend; 2, the command was not understood
"""

JSON = "JSON instead of words and tables"
PARAMS = f"params file (default: {paths.PARAMS})"

Options = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Command:
    """A subcommand: its name, what it does, and its own options."""

    name: str
    text: str
    add: Options = lambda parser: None


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a checkpoint's folder, a GGUF file, or org/name[@revision]")
    parser.add_argument("--text", type=Path, help="a UTF-8 text to calibrate and measure on")
    parser.add_argument("--minutes", type=float, default=30, help="on this machine (default: 30)")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="config.json, its folder, a GGUF file, a study")
    _json(parser)


def _advise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of models in params.yaml, a folder, or a GGUF file")
    parser.add_argument("--saved", type=float, required=True, help="share of the model's bits")
    parser.add_argument("--no-rounding", action="store_true", help="decompositions only")
    _json(parser)


def _run(parser: argparse.ArgumentParser) -> None:
    parser.usage = "tensorpress run [SNAKEMAKE OPTIONS]"
    parser.allow_abbrev = False  # a short form may be one of Snakemake's
    parser.set_defaults(hands_on=True)


def _copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=COPIED)
    _json(parser)


def _query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a file of queries/ without .sql")
    _json(parser)


def _families(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("types", nargs="*", help="model types; none: all that transformers has")
    _json(parser)


def _stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=paths.STAGES)


def _from_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a folder of results/assemble")
    parser.add_argument("target", type=Path, help="a new folder")
    _json(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    what = "a params file, a table of results or its folder, or a revision of git"
    parser.add_argument("first", help=what)
    parser.add_argument("second", help="the same")
    _json(parser)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=JSON)


GROUPS: dict[str, tuple[Command, ...]] = {
    "before a study": (
        Command("init", "print a study for a checkpoint that fits the time", _init),
        Command("copy", "copy params.yaml, profiles or studies into this folder, to edit", _copy),
        Command("check", "validate params.yaml against the models' shapes", _json),
        Command("doctor", "what this machine has, what a study takes, what is missing", _json),
        Command("plan", "sizes of recipes, from a config.json, a checkpoint or a study", _plan),
        Command("advise", "which method for which module, from weights and moments", _advise),
    ),
    "to run it, and after": (
        Command("run", "run the workflow here; options are those of snakemake", _run),
        Command("status", "what is done, running, failed and left, and the time it takes", _json),
        Command("query", "print the result of queries/NAME.sql", _query),
        Command("compare", "what two studies, tables or revisions differ in", _compare),
        Command("densify", "write a compressed checkpoint as a plain dense one", _from_to),
        Command(
            "export", "write rounded weights in compressed-tensors, for vLLM and others", _from_to
        ),
    ),
    "with DVC": (
        Command("record", "hand what snakemake computed to DVC, so that dvc status is clean"),
        Command("stage", "run one stage as DVC does, with the attic", _stage),
        Command("plan-keys", "write the live keys of every stage (DVC's first stage)"),
        Command("prune", "delete superseded artifacts kept in results/.attic", _json),
    ),
    "about the project": (
        Command("schema", "print the JSON schema of params.yaml"),
        Command("families", "look which model types are understood (docs/families.md)", _families),
    ),
}


class _Grouped(argparse.RawDescriptionHelpFormatter):
    """Help without argparse's own list of subcommands: the description has them in groups."""

    def add_argument(self, action: argparse.Action) -> None:
        if not isinstance(action, argparse._SubParsersAction):
            super().add_argument(action)


def parser() -> argparse.ArgumentParser:
    """The whole command line; ``--params`` may stand before a subcommand or after it."""
    whole = argparse.ArgumentParser(
        prog="tensorpress",
        description=_listed(),
        epilog=EPILOG,
        formatter_class=_Grouped,
    )
    whole.add_argument("--params", type=Path, default=paths.PARAMS, help=PARAMS)
    whole.add_argument("--version", action="version", version=f"%(prog)s {version('tensorpress')}")
    whole.set_defaults(hands_on=False)
    shtab.add_argument_to(whole, "--print-completion", help="a shell's completion, to be sourced")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for group in GROUPS.values():
        for command in group:
            own = commands.add_parser(command.name, help=command.text, description=command.text)
            own.add_argument("--params", type=Path, default=argparse.SUPPRESS, help=PARAMS)
            command.add(own)
            for action in own._actions:
                if action.type is Path:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options; ``rest`` are those of ``run`` that are meant for Snakemake.

    Leaves with status 2 where it is not understood.
    """
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    if rest and not options.hands_on:
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _listed() -> str:
    lines = ["Compress language models by tensor decompositions, and by what else there is.", ""]
    for title, commands in GROUPS.items():
        lines += [f"{title}:", *(f"  {each.name:<10} {each.text}" for each in commands), ""]
    return "\n".join(lines)
