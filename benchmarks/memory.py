"""Peak memory and seconds of all jobs up to assembly on a checkpoint of any size.

    python benchmarks/memory.py llama-2-7b /tmp/work --layers 2 --methods tt svd
    python benchmarks/memory.py qwen3-moe /tmp/work --layers 1 --methods td-moe

Makes the checkpoint (``make_checkpoint.py``) and a study of one recipe a method on all layers in
the new folder, runs the workflow up to the assembled checkpoints, one job at a time, and prints a
line per rule and method. ``peak`` is the largest resident set that a job's process says it had;
``sampled`` is that of Snakemake's benchmark files, which poll; ``foreseen`` is what the rules ask
for without the engine's share.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from make_checkpoint import SHAPES, make_checkpoint
from rich.console import Console
from rich.table import Table

from tensorpress.config import params
from tensorpress.planning import footprint
from tensorpress.planning.plan import Plan
from tensorpress.running import records

ROOT = Path(__file__).parents[1]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tt": ("ffn", {"method": "tt", "order": 12, "rank": 64}),
    "tucker-ffn": ("ffn", {"method": "tucker_ffn", "ranks": {"out": 1024, "in": 1024}}),
    "svd": ("ffn", {"method": "svd", "rank": 1024}),
    "tucker-qkvo": ("attention", {"method": "tucker_qkvo"}),
    "td-moe": ("experts", {"method": "td_moe", "ratio": 0.4}),
    "svd-experts": ("experts", {"method": "svd", "budget": {"saved": 0.4}}),
    "drop": ("attention", {"method": "drop"}),
    "dense-experts": ("experts", {"method": "dense"}),
    # these read moments, so the model is calibrated: with few --layers
    "tt-whitened": ("ffn", {"method": "tt", "order": 12, "rank": 64, "whiten": "input"}),
    "tucker-ffn-whitened": (
        "ffn",
        {"method": "tucker_ffn", "ranks": {"out": 1024, "in": 1024}, "whiten": "input"},
    ),
    "svd-whitened": ("ffn", {"method": "svd", "rank": 1024, "whiten": "input"}),
    "gptq": ("ffn", {"method": "gptq"}),
    "tucker-per-head-whitened": (
        "attention",
        {"method": "tucker_per_head", "ranks": {"hidden": 64, "head_dim": 16}, "whiten": "input"},
    ),
    "td-moe-whitened": ("experts", {"method": "td_moe", "ratio": 0.4, "whiten": "both"}),
}
TOKENS, WINDOW = 2048, 256
"""Of calibration: enough for moments that are not zero."""


def main() -> None:
    """Make, run, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape", choices=SHAPES)
    options.add_argument("folder", type=Path, help="a new folder; it takes three checkpoints' room")
    options.add_argument("--layers", type=int)
    options.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    options.add_argument("--methods", nargs="+", choices=METHODS, required=True)
    chosen = options.parse_args()
    config = json.loads(SHAPES[chosen.shape].read_text(encoding="utf-8"))
    made = chosen.folder / "inputs/model"
    if not made.exists():
        make_checkpoint(config, made, chosen.layers, chosen.dtype)
    (chosen.folder / "inputs/text.txt").write_text(text())
    for name in ("queries", "notebooks"):
        if not (chosen.folder / name).exists():
            (chosen.folder / name).symlink_to(ROOT / name)
    written = study(chosen.methods, chosen.dtype)
    (chosen.folder / "params.yaml").write_text(yaml.safe_dump(written))
    os.chdir(chosen.folder)
    run = ["--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--quiet", "rules"]
    command = [sys.executable, "-m", "snakemake", *run, "--", "stage_assemble"]
    subprocess.run(command, check=True)
    print_table(Plan(params.parse(written)), f"{chosen.shape}, {chosen.layers or 'all'} layers")


def text() -> str:
    """Letters of no meaning, more than the calibration reads."""
    drawn = random.Random(0)
    return "".join(drawn.choices("abcdefghij klmnop qrstuv wxyz\n", k=40 * TOKENS))


def study(methods: list[str], dtype: str) -> dict[str, Any]:
    """Params: one recipe a method, on all layers; its task is never run."""
    recipes = {
        name: {
            "models": ["made"],
            "steps": [{"modules": [METHODS[name][0]], "method": name}],
            "layers": ["all"],
            "tasks": ["heldout"],
        }
        for name in methods
    }
    return {
        "storage": {"dtype": dtype},
        "models": {"made": {"source": "local", "path": "inputs/model"}},
        "corpora": {"text": {"source": "file", "path": "inputs/text.txt"}},
        "calibration": {
            "corpus": "text",
            "tokens": TOKENS,
            "window": WINDOW,
            "batch": 1,
            "gradients": False,
        },
        "methods": {name: METHODS[name][1] for name in methods},
        "layer_sets": {"all": "all"},
        "recipes": recipes,
        "tasks": {"heldout": {"kind": "perplexity", "corpus": "text", "window": 64}},
        "reports": {},
    }


def jobs(plan: Plan) -> Iterator[tuple[str, str, str, int]]:
    """Rule, name, what of, and foreseen bytes of every job."""
    for model in plan.models.values():
        yield "fetch_model", model.id, "", footprint.fetch(model).peak_bytes
    for made in plan.calibrations.values():
        yield "calibrate", made.id, "", footprint.calibrate(made).peak_bytes
    for each in plan.used_decompositions:
        foreseen = footprint.decompose(each.decomposition, each.layer).peak_bytes
        yield "decompose", each.job_name, each.decomposition.method_name, foreseen
    for run in plan.runs.values():
        yield "assemble", run.id, run.label, footprint.assemble(run).peak_bytes


def print_table(plan: Plan, title: str) -> None:
    """The largest of each rule and method, and the mean seconds."""
    said = {(each.rule, each.name): each for each in records.read_all()}
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for rule, name, what, foreseen in jobs(plan):
        record = said.get((rule, name))
        if record is None or record.peak_rss_mb is None or record.wall_seconds is None:
            continue
        line = (record.peak_rss_mb, foreseen / 1e6, record.wall_seconds)
        found[rule, what].append(line)
    columns = ("rule", "of", "jobs", "peak MB", "foreseen MB", "s per job")
    table = Table(*columns, title=title)
    for (rule, what), lines in found.items():
        most = [f"{max(column):,.0f}" for column in list(zip(*lines, strict=True))[:2]]
        seconds = sum(line[2] for line in lines) / len(lines)
        table.add_row(rule, what, str(len(lines)), *most, f"{seconds:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
