"""``tensorpress init``: a study for a checkpoint that takes so many minutes on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import architecture_of
from tensorpress.commands.checkpoints import local_model, name_of
from tensorpress.commands.forecast import machine_of
from tensorpress.commands.recipes import Grid, recipes
from tensorpress.commands.workflow import typed
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.objectives.base import predicting
from tensorpress.planning.foresight import Machine, evaluation_seconds, foreseen
from tensorpress.planning.plan import Plan
from tensorpress.sources.beginnings import begins_with_bos
from tensorpress.sources.contents import existing_file, model_config
from tensorpress.sources.gguf_files import SUFFIX
from tensorpress.sources.hub_datasets import within_reach
from tensorpress.sources.hub_models import commit_of
from tensorpress.sources.inputs import HubModel, LocalModel
from tensorpress.sources.texts import WIKITEXT2, part_of

COMPUTE = "auto"
WINDOW = 512
"""Tokens of a window, or as many as the model has positions."""
BATCH_TOKENS = 4096
"""Of a forward pass."""
BYTES_A_TOKEN = 3
"""Fewer than most tokenizers take, so that a text is not thought longer than it is."""
NAMED = ("models", "corpora", "methods", "layer_sets", "recipes", "tasks", "reports")
"""Sections of entries by name."""
REPORTS = ("verdict", "pareto", "run")
LEAST_WINDOWS = 8
"""Windows of the shortest evaluation: what a standard error needs."""


@dataclass(frozen=True)
class Effort:
    """How much is tried, and on how many tokens it is calibrated and measured."""

    grid: Grid
    windows: int
    tokens: int


EFFORTS = (
    Effort(Grid((10, 20, 30, 40), halves=True), 128, 65536),
    Effort(Grid((10, 20, 30, 40), halves=True), 48, 32768),
    Effort(Grid((10, 20, 40), halves=True), 32, 16384),
    Effort(Grid((10, 20, 40), halves=False), 16, 16384),
    Effort(Grid((20, 40), halves=False), 16, 8192),
    Effort(Grid((20,), halves=False), LEAST_WINDOWS, 4096),
)
"""From the most to the least; the first that fits is taken, with as many windows as still do."""


@dataclass(frozen=True)
class Texts:
    """``corpora`` of a study, ``train`` and ``heldout``; windows that the latter has at most."""

    corpora: dict[str, dict[str, str]]
    said: str
    bytes: int | None = None
    """Of the held-out text, where they are known."""


def init(model: str, text: Path | None, minutes: float) -> str:
    """The text of a params file for a folder or a hub repository, with what it will take.

    ``text``: calibrates with its first three quarters and measures on the rest; without it that is
    WikiText-2 where the hub or its cache has it, else the embedded prose. Raises
    ``TensorpressError`` where the smallest study takes longer.
    """
    if not minutes > 0:
        raise TensorpressError(f"--minutes: {minutes:g} is not allowed; allowed: more than 0")
    name, spec = _model(model)
    architecture = architecture_of(model_config(name, spec), f"models.{name}")
    predicting(architecture.objective, f"init: {model}")
    if architecture.objective.reads != "text":
        raise TensorpressError(
            f"init: {model} is not allowed, {architecture.objective.described}; allowed: models of "
            "text; studies/vit.yaml is a study of images"
        )
    texts = _texts(text)
    machine = machine_of(architecture, COMPUTE)
    outside = [each for each in (getattr(spec, "path", None), text) if each and _outside(each)]
    bos = begins_with_bos(name, spec)
    study = _Study(name, spec, texts, architecture, bos, [str(each) for each in outside])
    least = math.inf
    for effort in EFFORTS:
        fitting = study.limited(effort)
        seconds = study.seconds(fitting, machine)
        least = sum(seconds.values())
        if least <= 60 * minutes:
            fitting = study.filled(fitting, 60 * minutes - least, machine)
            return study.written(fitting, study.seconds(fitting, machine), machine, minutes)
    raise TensorpressError(
        f"--minutes: {minutes:g} is not allowed: the smallest study of {model} takes "
        f"{least / 60:.1f} here ({machine}); allowed: {math.ceil(least / 60)} or more"
    )


@dataclass(frozen=True)
class _Study:
    """What is tried on one model; only how much of it is open."""

    name: str
    spec: LocalModel | HubModel
    texts: Texts
    architecture: Architecture
    bos: bool
    """Whether windows begin with it."""
    external: Sequence[str]

    @property
    def window(self) -> int:
        return min(WINDOW, self.architecture.size("positions") or WINDOW)

    @property
    def batch(self) -> int:
        return max(1, BATCH_TOKENS // self.window)

    def limited(self, effort: Effort) -> Effort:
        """With no more windows than the text has."""
        if self.texts.bytes is None:
            return effort
        has = self.texts.bytes // (BYTES_A_TOKEN * self.window)
        if has < LEAST_WINDOWS:
            wanted = LEAST_WINDOWS * BYTES_A_TOKEN * self.window
            raise TensorpressError(
                f"--text: {self.texts.corpora['heldout']['path']}: its last quarter of "
                f"{self.texts.bytes} bytes is not allowed; allowed: {wanted} bytes or more, for "
                f"{LEAST_WINDOWS} windows of {self.window} tokens"
            )
        return replace(effort, windows=min(effort.windows, has))

    def filled(self, effort: Effort, left: float, machine: Machine) -> Effort:
        """With the windows that the seconds left allow, up to four times as many."""
        runs = len(self.plan(effort).evaluations)
        one = runs * evaluation_seconds(self.architecture, self.window, machine) / machine.workers
        more = min(effort.windows + int(left / one), 4 * effort.windows)
        return self.limited(replace(effort, windows=more))

    def seconds(self, effort: Effort, machine: Machine) -> dict[str, float]:
        return foreseen(self.plan(effort), machine)

    def plan(self, effort: Effort) -> Plan:
        return Plan(parse(self.sections(effort)))

    def sections(self, effort: Effort) -> dict[str, Any]:
        """The study as the params file has it."""
        tried = recipes(self.architecture, effort.grid)
        model = self.spec.model_dump(exclude_defaults=True, exclude={"baseline_tasks", "transform"})
        report = {"model": self.name, "task": "heldout"}
        return {
            "storage": {"dtype": self._dtype()},
            "compute": {"dtype": COMPUTE},
            **({"external": list(self.external)} if self.external else {}),
            "models": {self.name: model},
            "corpora": self.texts.corpora,
            "calibration": {
                "corpus": "train",
                "tokens": effort.tokens,
                "window": self.window,
                "batch": self.batch,
                **self.beginning,
            },
            "methods": tried.methods,
            "layer_sets": tried.layer_sets,
            "recipes": {
                name: {"models": [self.name], **recipe, "tasks": ["heldout"]}
                for name, recipe in tried.recipes.items()
            },
            "tasks": {
                "heldout": {
                    "kind": "perplexity",
                    "corpus": "heldout",
                    "window": self.window,
                    "max_windows": effort.windows,
                    "batch": self.batch,
                    **self.beginning,
                }
            },
            "reports": {
                name: {"notebook": name, **report} for name in ("verdict", "pareto", "run")
            },
        }

    @property
    def beginning(self) -> dict[str, bool]:
        """How all windows begin, calibrated and measured ones alike."""
        return {"bos": True} if self.bos else {}

    def _dtype(self) -> str:
        """That of the checkpoint where it has 16 bits."""
        config = self.architecture.config
        held = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
        return held if held in ("float16", "bfloat16") else "bfloat16"

    def written(
        self, effort: Effort, seconds: Mapping[str, float], machine: Machine, minutes: float
    ) -> str:
        """The file, with what was decided and what it will take in comments."""
        tried = recipes(self.architecture, effort.grid)
        comments = {
            "corpora": [self.texts.said],
            "methods": ["Ranks follow from budgets: shares of the values of what is compressed."],
            "recipes": [
                "Numbers in names: percent of the whole model's bits, saved on all layers.",
                *tried.left_out,
            ],
        }
        lines = [
            f"# A study of {self.name}, written by tensorpress init. It runs with",
            f"#     {typed(Path('FILE'))}",
            "# and its answer is read with",
            "#     tensorpress --params FILE query verdict",
            "# What everything means: docs/params.md.",
            "#",
            *_foresight(seconds, machine, minutes),
        ]
        for section, value in self.sections(effort).items():
            lines += ["", *(f"# {line}" for line in comments.get(section, []))]
            lines += _section(section, value)
        return "\n".join(lines) + "\n"


def _section(section: str, value: Any) -> Iterator[str]:
    """As params.yaml is written: an entry a line, a recipe a block."""
    if section not in NAMED:
        yield _flow(section, value)
        return
    yield f"{section}:"
    for name, entry in value.items():
        if section != "recipes":
            yield f"  {_flow(name, entry)}"
            continue
        yield f"  {name}:"
        yield from (f"    {_flow(key, each)}" for key, each in entry.items())


def _flow(key: str, value: Any) -> str:
    """``key: value`` in a line."""
    text = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=True, width=math.inf)
    return text.strip()[1:-1]


def _foresight(seconds: Mapping[str, float], machine: Machine, minutes: float) -> Iterator[str]:
    yield f"# Foreseen on this machine ({machine}):"
    yield f"# {sum(seconds.values()) / 60:.1f} of {minutes:g} minutes, by part"
    for rule, taken in seconds.items():
        yield f"#     {rule:<14}{taken / 60:6.1f}"


def _model(model: str) -> tuple[str, LocalModel | HubModel]:
    """A folder or GGUF file, or ``org/name`` or ``org/name/file.gguf`` of the hub.

    With ``@`` and a branch, tag or commit if it is not ``main``.
    """
    if found := local_model(model):
        return found
    repository, at, revision = model.partition("@")
    if at and not revision:
        raise TensorpressError(
            f"init: {model!r} is not allowed; allowed: a branch, tag or commit behind @"
        )
    file = None
    if repository.endswith(SUFFIX):
        repository, _, file = repository.rpartition("/")
    if repository.count("/") != 1 or Path(repository).parent.is_dir():
        raise TensorpressError(
            f"init: {model!r} is neither a folder or GGUF file nor a repository of the hub; "
            "allowed: a folder with config.json, safetensors and tokenizer, a GGUF file, or "
            "org/name, or org/name/file.gguf, each with @revision or without"
        )
    commit = commit_of(repository, revision or "main")
    name = name_of(Path(file or repository))
    return name, HubModel(source="hub", repository=repository, revision=commit, file=file)


def _texts(text: Path | None) -> Texts:
    if text is not None:
        return _own(text)
    if within_reach(WIKITEXT2):
        train, heldout = ({"source": "wikitext2", "split": split} for split in ("train", "test"))
        said = "WikiText-2 of the hub: calibration on train, measured on test. Yours: --text FILE."
        return Texts({"train": train, "heldout": heldout}, said)
    train, heldout = ({"source": "embedded", "split": split} for split in ("train", "heldout"))
    said = (
        "The prose of Python's standard library, for the hub gives no WikiText-2 here. A text of "
        "the model's use tells more: --text FILE."
    )
    return Texts({"train": train, "heldout": heldout}, said)


def _own(text: Path) -> Texts:
    existing_file(str(text), "--text")
    try:
        content = text.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TensorpressError(f"--text: {text} is not UTF-8; allowed: a UTF-8 text") from error
    train, heldout = (
        {"source": "file", "path": str(text), "split": split} for split in ("train", "heldout")
    )
    said = "The first three quarters of the text calibrate, the rest is measured."
    size = len(part_of(content, "heldout").encode())
    return Texts({"train": train, "heldout": heldout}, said, size)


def _outside(path: str | Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath("."))
