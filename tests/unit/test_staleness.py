"""What an edit makes stale: the package is copied and edited, and the same study planned again."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.workspace import ROOT

from tensorpress.config.params import parse
from tensorpress.keying import fingerprints
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan

STUDY = """
models: {dense: {source: embedded, name: dense}}
corpora:
  train: {source: embedded, split: train}
  heldout: {source: embedded, split: heldout}
calibration: {corpus: train}
methods:
  tt: {method: tt, order: 2, rank: 8}
  svd: {method: svd, rank: 8, whiten: input}
  advised: {method: advised, saved: 0.2, methods: [svd]}
layer_sets: {one: {middle: 1}, all: all}
recipes:
  tt: {models: [dense], steps: [{modules: [ffn], method: tt}], layers: [one], tasks: [heldout]}
  lora:
    models: [dense]
    steps: [{modules: [ffn], method: svd}]
    layers: [one]
    recover: {train: adapters, rank: 4, seeds: [0]}
    rounding: {bits: 8}
    tasks: [heldout, speed]
  advised:
    {models: [dense], steps: [{modules: [all], method: advised}], layers: [all], tasks: [heldout]}
tasks: {heldout: {kind: perplexity, corpus: heldout}, speed: {kind: speed}}
reports:
  verdict: {notebook: verdict, model: dense, task: heldout}
  pareto: {notebook: pareto, model: dense, task: heldout}
"""
LLAMA, GPT2 = "architectures/families/llama.py", "architectures/families/gpt2.py"
TRAINING = "sources/embedded/training.py"
TABLES = {"aggregate", "reports verdict", "reports pareto", "site"}
EVALUATED = {"evaluate heldout", "evaluate speed"} | TABLES
RECOVERED = {"recover"} | EVALUATED
ASSEMBLED = {"assemble"} | RECOVERED
DECOMPOSED = {"decompose tt", "decompose svd", "decompose advised"} | ASSEMBLED
CALIBRATED = {"calibrate", "options", "advise"} | DECOMPOSED
OF_TT = {"decompose tt", "assemble", "evaluate heldout"} | TABLES
"""Without the recovered run, which is made of the SVD."""

Edit = Callable[[Path], None]


def replaced(name: str, old: str, new: str) -> Edit:
    """Text of a file of the package (or of the project, by ``../``) replaced once."""

    def edit(package: Path) -> None:
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(old) >= 1, (name, old)
        (package / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def renamed(old: str, new: str) -> Edit:
    """A module of another name, or in another package, wherever it is named."""

    def edit(package: Path) -> None:
        target = package.joinpath(*new.split(".")).with_suffix(".py")
        target.parent.mkdir(exist_ok=True)
        package.joinpath(*old.split(".")).with_suffix(".py").rename(target)
        count = 0
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            text, found = re.subn(rf"\btensorpress\.{re.escape(old)}\b", f"tensorpress.{new}", text)
            path.write_text(text, encoding="utf-8")
            count += found
        assert count

    return edit


def moved(function: str, old: str, new: str) -> Edit:
    """A function moved to the end of another module, and imported from there."""

    def edit(package: Path) -> None:
        source, target = (package.joinpath(*name.split(".")) for name in (old, new))
        source, target = source.with_suffix(".py"), target.with_suffix(".py")
        text = source.read_text(encoding="utf-8")
        (node,) = (n for n in ast.parse(text).body if getattr(n, "name", "") == function)
        lines = text.splitlines(keepends=True)
        body = "".join(lines[node.lineno - 1 : node.end_lineno])
        target.write_text(target.read_text(encoding="utf-8") + "\n\n" + body, encoding="utf-8")
        source.write_text(text.replace(body, ""), encoding="utf-8")
        count = 0
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found = f"from tensorpress.{old} import {function}\n"
            count += found in text
            text = text.replace(found, f"from tensorpress.{new} import {function}\n")
            path.write_text(text, encoding="utf-8")
        assert count
        head = "from __future__ import annotations\n"
        replaced(
            str(source.relative_to(package)),
            head,
            f"{head}from tensorpress.{new} import {function}\n",
        )(package)

    return edit


def keys(package: Path) -> dict[str, set[str]]:
    """Keys of the study by stage, and by method, task, source and report.

    The code is that of a package whose folder has the project's other files beside it.
    """
    study = parse(yaml.safe_load(STUDY))
    found: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(package.parent)
        patch.setattr(fingerprints, "PACKAGE", package)
        live = live_paths(Plan(study))
    for stage, paths in live.items():
        for path in map(Path, paths):
            first, *within = path.relative_to(f"results/{stage}").parts
            name, _, key = first.rpartition("-")
            part = {"decompose": -2, "evaluate": -1, "fetch": -1, "reports": -1}.get(stage)
            label = stage if part is None else f"{stage} {name.split('-')[part]}"
            label = "options" if within and stage == "advise" else label
            found.setdefault(label, set()).add(key.partition(".")[0])
    return found


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return keys(copied(tmp_path_factory.mktemp("before")))


def copied(folder: Path) -> Path:
    """The package and what lies beside it that keys depend on."""
    for name in ("queries", "notebooks", "rules"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "src/tensorpress", folder / "tensorpress", ignore=ignored)


TT = "methods/tt.py"
EDITS: dict[str, tuple[Edit, set[str]]] = {
    "a comment": (replaced(TT, "    factors = []\n", "    # why\n    factors = []\n"), set()),
    "a docstring": (replaced("linalg/tensor_train.py", '"""', '"""Otherwise: '), set()),
    "what an error says": (replaced(TT, "is above the limit at", "exceeds that of"), set()),
    "a type": (replaced(TT, "weights: Mapping[str, Tensor]", "weights: dict[str, object]"), set()),
    "a cost estimate": (replaced(TT, "20 * cost.macs", "30 * cost.macs"), set()),
    "a shared cost estimate": (replaced("methods/cost.py", "VECTORS = 3.5", "VECTORS = 4"), set()),
    "a bound on memory": (replaced("planning/footprint.py", "START = 300", "START = 400"), set()),
    "planning": (replaced("architectures/layers.py", "layers // 2", "layers // 3"), set()),
    "what jobs record": (replaced("running/records.py", "*.json", "*.txt"), set()),
    "a method that is not used": (replaced("methods/gptq.py", "BLOCK = ", "BLOCK = 1 + "), set()),
    "a family that is not used": (replaced(GPT2, "transformer", "decoder"), set()),
    "a new method": (replaced("methods/registry.py", '"dense":', '"new": "new", "dense":'), set()),
    "a module renamed": (renamed("linalg.tensor_train", "linalg.oseledets"), set()),
    "a module in another package": (renamed("stages.decomposition", "work.decomposition"), set()),
    "rows in another package": (renamed("checkpoints.rows", "tables.rows"), set()),
    "a function moved": (moved("gradient_of", "architectures.sites", "files.storage"), set()),
    "a method's arithmetic": (replaced(TT, "(list(cores)).float()", "(list(cores))"), OF_TT),
    "a method's settings": (replaced(TT, "Field(12, ge=2", "Field(10, ge=2"), OF_TT),
    "a kernel of one method": (replaced("linalg/tensor_train.py", "RUN = 16", "RUN = 8"), OF_TT),
    "what advice consists of": (
        replaced("methods/advised.py", "damage: float", "damage: float = 0.0"),
        {"options", "advise", "decompose advised", "assemble", "evaluate heldout"} | TABLES,
    ),
    "how integers are packed": (
        replaced("formats/rounding.py", "def pack(", "def pack(_=0, *, "),
        {"options", "advise", "decompose advised"} | ASSEMBLED,
    ),
    "what a family says": (
        replaced(LLAMA, "linears=LINEARS,", 'linears=LINEARS, head="head",'),
        CALIBRATED,
    ),
    "training of the embedded models": (
        replaced(TRAINING, "BETAS = (", "BETAS = (*"), {"fetch dense"} | CALIBRATED
    ),
    "the prose": (
        replaced("sources/embedded/paragraph_hashes.txt", "\n", "\n\n"),
        {"fetch dense", "fetch train", "fetch heldout"} | CALIBRATED,
    ),
    "what models are asked": (
        replaced("objectives/causal_lm.py", "slice(0, -1)", "slice(0, -2)"),
        CALIBRATED - {"decompose tt"},
    ),
    "an objective that is not used": (
        replaced("objectives/masked_lm.py", "STRIDE = 7", "STRIDE = 5"), set()
    ),
    "a transform that is not used": (
        replaced("transforms/fold_norms.py", "1 - unit", "2 - unit"), set()
    ),
    "what calibrate does": (
        replaced(
            "stages/calibrate.py", "len(rows) * settings.window", "settings.window * len(rows)"
        ),
        CALIBRATED - {"decompose tt"},  # which reads no moments
    ),
    "what assemble does": (
        replaced("stages/assemble.py", "write_rows([storage]", "write_rows([storage, storage]"),
        ASSEMBLED,
    ),
    "what recover does": (
        replaced("stages/recover.py", "spill=False", "spill=True"),
        {"recover", "evaluate heldout", "evaluate speed"} | TABLES,
    ),
    "what evaluate does": (
        replaced("stages/evaluate.py", "task.noted(rows)", "rows"), EVALUATED
    ),
    "one task": (
        replaced("evaluation/tasks/speed.py", "MIB = 2**20", "MIB = 10**6"),
        {"evaluate speed"} | TABLES,
    ),
    "a column of jobs": (
        replaced("checkpoints/rows.py", "    gpu: str | None = None\n", "    gpu: int = 0\n"),
        TABLES,
    ),
    "a column of decompositions": (
        replaced("checkpoints/rows.py", "    stack: str\n", "    stack: str\n    gain: float\n"),
        DECOMPOSED,
    ),
    "a query": (replaced("../queries/verdict.sql", "SELECT", "SELECT 1 +"), TABLES - {"aggregate"}),
    "a notebook": (replaced("../notebooks/verdict.ipynb", "{", "{ "), {"reports verdict", "site"}),
    "a figure": (replaced("report/figures.py", "def ", "def a(): 1\ndef "), TABLES - {"aggregate"}),
}  # fmt: skip


def test_the_study_has_every_stage(before: dict[str, set[str]]) -> None:
    texts = {"fetch dense", "fetch train", "fetch heldout"}
    assert before.keys() == texts | CALIBRATED


@pytest.mark.parametrize("name", EDITS)
def test_what_is_stale_after(name: str, before: dict[str, set[str]], tmp_path: Path) -> None:
    edit, stale = EDITS[name]
    package = copied(tmp_path)
    edit(package)
    after = keys(package)
    assert after.keys() == before.keys()
    assert {stage for stage, found in after.items() if found != before[stage]} == stale
