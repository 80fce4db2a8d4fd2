"""The two how-to pages, followed word by word in a copy of the project."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support.workspace import ROOT, Workspace, tiny_params, tiny_tokenizer
from transformers import StableLmConfig, StableLmForCausalLM


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
    params["methods"] = {"scalar": {"method": "scalar"}}
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
