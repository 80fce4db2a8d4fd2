"""SliceGPT with one rotation against golden2.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.oracle import DATA2, inputs, needs_golden
from support.transforms import sliced
from support.workspace import ROOT
from transformers import LlamaConfig, LlamaForCausalLM

from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.planning.footprint import values_of
from tensorpress.running.oom import CPU
from tensorpress.transforms.slicegpt import Spec

pytestmark = needs_golden
SIZES = [
    case
    for case in DATA2.get("storage_from_shapes", {}).get("slicegpt_llama_2_7b", [])
    if case["width"] % 32 == 0
]


def dense(case: dict, folder: Path) -> Path:
    """The checkpoint that a case slices."""
    config = LlamaConfig(
        hidden_size=96, intermediate_size=160, num_hidden_layers=3, vocab_size=128, head_dim=16,
        num_attention_heads=6, num_key_value_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    made = eval(case["input"], vars(inputs("golden2_inputs")))
    model.load_state_dict({name: torch.tensor(value) for name, value in made.items()})
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "case",
    DATA2.get("one_rotation", {}).get("cases", []),
    ids=lambda case: f"{case['input'][-2]}-{case['width']}",
)
def test_one_rotation(case: dict, tmp_path: Path) -> None:
    golden = inputs("golden2_inputs")
    source = dense(case, tmp_path / "dense")
    calibration, test = (
        torch.tensor(golden.ids(*given)) for given in ((31, 4, 32, 128), (32, 2, 32, 128))
    )
    narrow = sliced(source, tmp_path / "narrow", case["width"], calibration)
    with torch.inference_mode():
        found, wanted = (
            load_model(folder, CPU, torch.float64)(input_ids=test).logits
            for folder in (narrow, source)
        )
    error = float((found - wanted).norm() / wanted.norm())
    assert error == pytest.approx(case["logits_rel_test"], abs=1e-5)
    shapes = Checkpoint.open(narrow).shapes().values()
    assert sum(a * b for a, b in (shape for shape in shapes if len(shape) == 2)) == case["values"]


@pytest.mark.parametrize("case", SIZES, ids=lambda case: str(case["width"]))
def test_values_of_llama_2_7b(case: dict) -> None:
    """Of matrices, from shapes alone, at widths that transformers takes."""
    config = json.loads((ROOT / "studies/configs/llama-2-7b.json").read_text(encoding="utf-8"))
    architecture = architecture_of(config, "golden")
    made = Spec(transform="slicegpt", width=case["width"]).planned(architecture, "golden")
    before, after = values_of(architecture), values_of(made)
    assert before == case["dense_values"]
    assert 100 * (1 - after / before) == pytest.approx(case["saved_percent_one_rotation"])
