"""Seconds and memory of planning a large study: our part alone, and all of ``snakemake -n``.

    python benchmarks/dag.py [--size small|full|each] [--params FILE]

The study compresses a Llama-shaped checkpoint; each recipe takes one method for the attention and
one for the FFN of all layers, with ``each`` also of each layer by itself. It is planned in a copy
of the project in a temporary folder: by ``Plan`` without Snakemake, then by ``snakemake -n`` before
anything is made, with an empty file in place of every artifact, and for one file that is missing,
as a job on a cluster does before its work. ``CPU s`` is the time of user and system, which other
work on the machine stretches least. ``--params`` plans a params file of the project instead.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
PROJECT = (
    "Snakefile", "rules", "workflow_scripts", "envs", "profiles", "notebooks", "queries", "studies",
    "params.yaml",
)  # fmt: skip
STUDY = "study.yaml"
PLAN = """
import json, sys
from pathlib import Path
from tensorpress.planning.jobs import live_paths
from tensorpress.config.params import load
from tensorpress.planning.plan import Plan
print(json.dumps(live_paths(Plan(load(Path(sys.argv[1]))))))
"""


@dataclass(frozen=True)
class Size:
    """How much is planned: of ``methods``, half are for attention and half for the FFN."""

    layers: int
    methods: int
    recipes: int
    tasks: int
    layer_sets: tuple[str, ...] = ("all",)


SIZES = {
    "small": Size(4, 6, 6, 3),
    "full": Size(32, 30, 60, 8),
    "each": Size(32, 30, 60, 8, ("all", "each")),
}


def sized(method: str, saved: float, **settings: Any) -> dict[str, Any]:
    """Settings of a method under a budget."""
    return {"method": method, "budget": {"saved": saved}, **settings}


WHITENINGS = ("none", "input")
ATTENTION = [
    *(sized("svd", saved, whiten=w) for saved in (0.2, 0.4, 0.6) for w in WHITENINGS),
    *(sized("tt_per_head", 0.4, order=2, whiten=w) for w in WHITENINGS),
    *(sized("tucker_per_head", 0.4, whiten=w) for w in WHITENINGS),
    *(sized("tucker_qkvo", 0.4, layout=layout) for layout in ("tensorllm", "published")),
    sized("tucker_qkvo_separate", 0.4),
    {"method": "gptq", "bits": 4},
    {"method": "drop"},
]
FFN = [
    *(sized("svd", saved, whiten=w) for saved in (0.3, 0.5, 0.7) for w in WHITENINGS),
    *(sized("tt", 0.4, order=3, whiten=w) for w in WHITENINGS),
    sized("tt", 0.4, order=3, shape="search"),
    {"method": "tt", "order": 3, "error": 0.3},
    *(sized("tucker_ffn", 0.4, whiten=w) for w in WHITENINGS),
    sized("tt_sparse", 0.4, order=3, outliers=0.002),
    {"method": "gptq", "bits": 3},
    {"method": "dense"},
]
TASKS = {
    "heldout": {"kind": "perplexity", "corpus": "heldout"},
    "prediction": {"kind": "prediction"},
    "speed": {"kind": "speed"},
    "cloze": {"kind": "cloze", "corpus": "heldout"},
    "last_word": {"kind": "last_word", "corpus": "heldout"},
    "samples": {"kind": "generation"},
    "geometry": {"kind": "geometry", "corpus": "heldout"},
    "restoration": {"kind": "restoration"},
}


@dataclass(frozen=True)
class Usage:
    """What a process printed and used."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    """Print the jobs by rule, then one line a way of planning."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SIZES, default="small")
    options.add_argument("--params", help="a params file of the project, in place of the study")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = chosen.params or write_study(folder, SIZES[chosen.size])
        copy_project(folder)
        ours = run(folder, sys.executable, "-c", PLAN, params)
        live = json.loads(ours.output)
        dry_run = (sys.executable, "-m", "snakemake", "-n", "--configfile", params)
        nothing = run(folder, *dry_run)
        touch(folder, live)
        everything = run(folder, *dry_run)
        one = live["decompose"][0]
        (folder / one).unlink()
        alone = run(folder, *dry_run, "--", one)
    rules = Table("rule", "jobs")
    for rule, count in jobs(nothing.output).items():
        rules.add_row(rule, str(count))
    table = Table("planned", "jobs", "s", "CPU s", "peak MB")
    add(table, "Plan alone", "", ours)
    for name, usage in {"nothing made": nothing, "all made": everything, "one file": alone}.items():
        add(table, name, str(sum(jobs(usage.output).values())), usage)
    Console().print(rules, table)


def add(table: Table, name: str, count: str, usage: Usage) -> None:
    """One line: jobs, wall clock, user and system time, most resident memory."""
    figures = (usage.seconds, usage.cpu_seconds, usage.peak_mb)
    table.add_row(name, count, *(f"{figure:.1f}" for figure in figures))


def run(folder: Path, *command: str) -> Usage:
    """Run a command in a folder; an error of it is ours too."""
    start = time.perf_counter()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        sys.exit(printed)
    return Usage(printed, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def jobs(output: str) -> dict[str, int]:
    """Jobs by rule, from what ``snakemake -n`` prints."""
    stats = output.partition("Job stats:")[2]
    found = re.findall(r"^(\w+) +(\d+)$", stats.partition("\n\n")[0], re.MULTILINE)
    return {rule: int(count) for rule, count in found if rule != "total"}


def copy_project(folder: Path) -> None:
    """What ``snakemake`` reads of the project beside the package."""
    for name in PROJECT:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)


def touch(folder: Path, live: dict[str, list[str]]) -> None:
    """Something in place of every artifact: an empty folder, or an empty file."""
    for name in (name for stage in live.values() for name in stage):
        path = folder / name
        if path.suffix in (".txt", ".json", ".safetensors", ".parquet", ".html"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True)


def write_study(folder: Path, size: Size) -> str:
    """The study's params file, the checkpoint and the texts that it names; returns its name."""
    process = multiprocessing.get_context("spawn").Process(
        target=write_checkpoint, args=(folder / "inputs/tiny", size.layers)
    )
    process.start()
    process.join()
    for text in ("train", "heldout"):
        (folder / f"inputs/{text}.txt").write_text(f"A text to be {text}.", encoding="utf-8")
    (folder / STUDY).write_text(yaml.safe_dump(study(size), sort_keys=False), encoding="utf-8")
    return STUDY


def write_checkpoint(folder: Path, layers: int) -> None:
    """A narrow Llama; in a process of its own, for torch's memory would count as its children's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tensorpress.sources.embedded.tokenizer import train_tokenizer

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    train_tokenizer([], 257).save_pretrained(folder)  # bytes alone


def study(size: Size) -> dict[str, Any]:
    """Params of the study: every recipe pairs another two methods."""
    count = size.methods // 2
    attention = {f"attention{i}": spec for i, spec in enumerate(spread(ATTENTION, count))}
    ffn = {f"ffn{i}": spec for i, spec in enumerate(spread(FFN, count))}
    pairs = [(i % count, (i + i // count) % count) for i in range(size.recipes)]
    return {
        "models": {"tiny": {"source": "local", "path": "inputs/tiny"}},
        "corpora": {t: {"source": "file", "path": f"inputs/{t}.txt"} for t in ("train", "heldout")},
        "calibration": {"corpus": "train"},
        "methods": attention | ffn,
        "layer_sets": {name: name for name in size.layer_sets},
        "recipes": {
            f"recipe{i}_{j}": {
                "models": ["tiny"],
                "steps": [
                    {"modules": ["attention"], "method": f"attention{i}"},
                    {"modules": ["ffn"], "method": f"ffn{j}"},
                ],
                "layers": list(size.layer_sets),
                "tasks": list(TASKS)[: size.tasks],
            }
            for i, j in pairs
        },
        "tasks": TASKS,
        "reports": {"verdict": {"notebook": "verdict", "model": "tiny", "task": "heldout"}},
    }


def spread(settings: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of the settings, of as many methods as possible."""
    return [settings[i * len(settings) // count] for i in range(count)]


if __name__ == "__main__":
    main()
