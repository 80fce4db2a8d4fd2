"""The how-to pages, followed word by word in a copy of the project."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from support.workspace import ROOT, Workspace, tiny_params, tiny_text, tiny_tokenizer
from transformers import StableLmConfig, StableLmForCausalLM

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.objectives.windows import token_windows
from tensorpress.running.oom import CPU


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page of docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_adding_a_method(workspace: Workspace) -> None:
    (code,) = blocks("adding-a-method.md", "python")
    (line,) = blocks("adding-a-method.md", "text")
    source = workspace.folder / "src/tensorpress"
    (source / "methods/scalar.py").write_text(code, encoding="utf-8")
    workspace.edit("src/tensorpress/methods/registry.py", "] = {\n", "] = {\n" + line)
    params = tiny_params()
    example = "from tensorpress.methods.registry import load; print(load('scalar').EXAMPLE.method)"
    done = workspace.run("python", "-c", example)
    params["methods"] = {"scalar": {"method": done.stdout.strip()}}
    recipe = {**params["recipes"]["svd"], "steps": [{"modules": ["ffn"], "method": "scalar"}]}
    drop = {**recipe, "steps": [{"modules": ["ffn"], "method": "drop"}]}
    params["methods"]["drop"] = {"method": "drop"}
    params["recipes"] = {"scalar": recipe, "drop": drop}
    workspace.write_params(params)
    workspace.snakemake()
    done = workspace.run("tensorpress", "query", "methods", "--json")
    (record,) = (r for r in json.loads(done.stdout) if r["method_name"] == "scalar")
    assert record["method"] == "scalar"
    assert 0.9 < record["relative_error"] <= 1.001
    done = workspace.run("tensorpress", "query", "verdict", "--json")
    lowest = json.loads(done.stdout)[0]  # of its budgets
    assert (lowest["tensor_recipe"], lowest["alternative_recipe"]) == ("scalar", "drop")


def test_adding_a_task_and_a_report(workspace: Workspace) -> None:
    settings, work = blocks("adding-a-task.md", "python")
    (line,) = blocks("adding-a-task.md", "text")
    (used,) = blocks("adding-a-task.md", "yaml")
    (query,) = blocks("adding-a-task.md", "sql")
    (notebook,) = blocks("adding-a-report.md", "json")
    (report_line,) = blocks("adding-a-report.md", "text")
    (shown,) = blocks("adding-a-report.md", "yaml")
    for name, text in {
        "src/tensorpress/config/tasks/next_token.py": settings,
        "src/tensorpress/evaluation/tasks/next_token.py": work,
        "queries/next_token.sql": query,
        "notebooks/ranks.ipynb": notebook,
    }.items():
        (workspace.folder / name).write_text(text, encoding="utf-8")
    package = "src/tensorpress/config"
    workspace.edit(f"{package}/tasks/registry.py", "] = {\n", "] = {\n" + line)
    workspace.edit(f"{package}/reports.py", "] = {\n", "] = {\n" + report_line)
    params = tiny_params()
    (task,), (report,) = (yaml.safe_load(each).popitem()[1].values() for each in (used, shown))
    windows = {"corpus": "text", "window": 64, "max_windows": 4}
    params["tasks"]["ranked"] = {**task, **windows}
    params["models"]["tiny"]["baseline_tasks"] = ["ranked"]
    del params["recipes"]["svd"]
    params["reports"]["ranks"] = {**report, "model": "tiny", "task": "heldout"}
    workspace.write_params(params)
    refused = workspace.run("tensorpress", "check", check=False)
    assert "reports.ranks.task: 'heldout' is not allowed; allowed: a task of kind next_token: " in (
        refused.stderr
    )
    params["reports"]["ranks"]["task"] = report["task"]
    workspace.write_params(params)
    workspace.snakemake()
    done = workspace.run("tensorpress", "query", "next_token", "--json")
    (row,) = json.loads(done.stdout)
    folder = workspace.folder / "inputs/tiny"
    ids = token_windows(load_tokenizer(folder), tiny_text(), 64, 4)
    with torch.inference_mode():
        ranks = load_model(folder, CPU)(ids).logits[:, :-1].argsort(-1, descending=True)
    right = ranks[..., 0] == ids[:, 1:]
    assert (row["recipe"], row["task"], row["samples"]) == ("baseline", "ranked", right.numel())
    assert row["share"] == pytest.approx(float(right.double().mean()))
    (page,) = (workspace.folder / "results/reports").glob("ranks-*.html")
    assert "How often the likeliest token is the true one" in page.read_text(encoding="utf-8")
    assert workspace.nothing_to_do()


def test_adding_a_family(workspace: Workspace) -> None:
    (code,) = blocks("adding-a-family.md", "python")
    (line,) = blocks("adding-a-family.md", "text")
    source = workspace.folder / "src/tensorpress/architectures/families"
    (source / "stablelm.py").write_text(code, encoding="utf-8")
    table = (source / "table.py").read_text(encoding="utf-8")
    last = '    "qwen3_moe",\n'
    assert table.count(last) == 1
    (source / "table.py").write_text(table.replace(last, last + line), encoding="utf-8")
    folder = workspace.folder / "inputs/tiny"
    for path in Path(folder).iterdir():
        path.unlink()
    config = StableLmConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    StableLmForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    workspace.snakemake()
    assert workspace.nothing_to_do()
