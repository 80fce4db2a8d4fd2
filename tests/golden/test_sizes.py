"""Sizes from configs alone, against the study's own numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.oracle import DATA, needs_golden
from support.workspace import ROOT

from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import load, parse

pytestmark = needs_golden
RECIPES = {
    "Tucker(MHA)": "tucker_attention",
    "TT(FFN)": "tt_ffn",
    "Tucker+TT": "tucker_attention_tt_ffn",
    "TT(all)": "tt_all",
}


@pytest.fixture(scope="module")
def planned() -> list[dict]:
    """What ``tensorpress plan studies/paper.yaml --json`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tensorpress.commands.cli", "plan", "studies/paper.yaml", "--json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["gptj", "llama2"])
def test_the_study_s_horizontal_axis(planned: list[dict], name: str) -> None:
    expected = DATA["paper_x_axis"][name]
    found = {(r["model"], r["recipe"], len(r["layers"])): r for r in planned}
    for row in expected["rows"]:
        recipe = RECIPES[row["recipe"]] + "_lora" * row["lora"]
        record = found[name, recipe, row["L"]]
        assert record["dense_values"] == expected["params_with_embeddings"]
        assert record["modules_dense_bits"] == row["dense_bits"], row
        assert record["modules_stored_bits"] == row["storage_bits"], row
        saved = record["bits_saved_percent"]
        assert saved["with_embeddings"] == pytest.approx(row["with_emb"], rel=1e-12)
        assert saved["without_embeddings"] == pytest.approx(row["no_emb"], rel=1e-12)
        assert saved["blocks"] == pytest.approx(row["block"], rel=1e-12)


def test_td_moe_is_planned_by_ratio(planned: list[dict]) -> None:
    records = [r for r in planned if r["recipe"].startswith("td_moe")]
    assert {r["model"] for r in records} == {"qwen3-moe", "gpt-oss"}
    for record in records:
        ratio = record["settings"]["ratio"]
        assert record["settings"]["experts"] == "preserve"
        assert record["bits_saved_percent"]["modules"] == pytest.approx(100 * ratio, abs=1.0)


@pytest.mark.parametrize("case", DATA.get("storage_summary_tiny_llama", []), ids=repr)
def test_storage_of_the_tiny_llama(case: dict) -> None:
    config = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 96, "intermediate_size": 288,
        "num_hidden_layers": 4, "num_attention_heads": 6, "tie_word_embeddings": False,
        "num_key_value_heads": case["kv_heads"],
    }  # fmt: skip
    tucker = {
        "method": "tucker_qkvo",
        "layout": "published",
        "gqa": "per_projection",
        "ranks": {"hidden": case["rank"], "head_dim": 4, "stack": 2},
    }
    tt = {"method": "tt", "order": case["tt_order"], "rank": case["rank"]}
    attention, ffn = (
        {"modules": ["attention"], "method": "tucker"},
        {"modules": ["ffn"], "method": "tt"},
    )
    steps = {
        "tucker_mha": [attention],
        "tucker_mha__tt_mlp": [attention, ffn],
        "tt_mlp": [ffn],
        "tt_all": [{"modules": ["all"], "method": "tt"}],
    }
    recipe = {"models": ["m"], "steps": steps[case["recipe"]], "layers": ["two"], "tasks": ["t"]}
    if case["rtn_bits"]:
        recipe["rounding"] = {"bits": case["rtn_bits"]}
    if case["lora_r"]:
        recipe["recover"] = {"train": "adapters", "rank": case["lora_r"]}
    params = parse(
        {
            "storage": {"dtype": "float16"},
            "models": {"m": {"source": "config", "path": "-"}},
            "corpora": {"c": {"source": "file", "path": "-"}},
            "calibration": {"corpus": "c"},
            "methods": {"tucker": tucker, "tt": tt},
            "layer_sets": {"two": [1, 2]},
            "recipes": {"r": recipe},
            "tasks": {"t": {"kind": "perplexity", "corpus": "c"}},
            "reports": {},
        }
    )
    (size,) = sizes(MetaModel("m", config), params)
    assert size.saved.modules_dense_bits == case["affected_modules_dense_bits"]
    assert size.saved.modules_stored_bits == case["affected_modules_storage_bits"]
    assert size.saved.dense_bits == case["overall_with_embeddings_dense_bits"]
    assert size.saved.stored_bits == case["overall_with_embeddings_storage_bits"]
    saved = size.saved.without_embeddings_percent
    assert saved == pytest.approx(case["bits_saved_no_emb_pct"], rel=1e-12)


def test_the_study_file_loads_and_names_its_configs() -> None:
    params = load(ROOT / "studies/paper.yaml")
    assert all((ROOT / Path(model.path)).is_file() for model in params.models.values())
