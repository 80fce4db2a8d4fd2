"""Checkpoints with rounded factors: their bits, their errors, and transformers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.stages import EXPERTS, FFN, LAYER, make
from support.workspace import tiny_params
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.checkpoints.factorfile import load_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.densify import densify
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import Rounding, parse
from tensorpress.running.oom import CPU

CASES = [
    ("dense", {}, FFN, Rounding(bits=3)),
    ("svd", {"rank": 5}, FFN, Rounding(bits=4, group_size=32)),
    ("tt_sparse", {"order": 3, "rank": 4, "outliers": 0.01}, FFN, Rounding(bits=8)),
    ("gptq", {"bits": 5}, FFN, None),
    ("tucker_qkvo", {"ranks": {"hidden": 12}},
     ("attention.q", "attention.k", "attention.v", "attention.o"), Rounding(bits=6)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "modules", "rounding"), CASES)
def test_a_checkpoint_stores_what_the_plan_counts(
    llama_directory: Path, tmp_path: Path, method, settings, modules, rounding
) -> None:
    made = make(llama_directory, method, settings, modules, tmp_path, rounding)
    recipe = {
        "models": ["m"], "steps": [{"modules": [modules[0].split(".")[0]], "method": "it"}],
        "layers": ["one"], "tasks": ["heldout"],
    }  # fmt: skip
    params = tiny_params() | {
        "models": {"m": {"source": "config", "path": "-"}},
        "methods": {"it": {"method": method, **settings}},
        "layer_sets": {"one": [LAYER]},
        "recipes": {"r": recipe | ({"rounding": rounding.model_dump()} if rounding else {})},
        "reports": {},
    }
    config = json.loads((llama_directory / "config.json").read_text())
    (size,) = sizes(MetaModel("m", config), parse(params))
    assert size.saved.stored_bits == made.storage.stored_bits
    assert size.saved.dense_bits == made.storage.dense_bits
    stacks = {tuple(e["stack"]): e["stack_bits"] for e in made.manifest["modules"]}
    assert sum(stacks.values()) == size.saved.modules_stored_bits
    assert 0 < made.storage.checkpoint_bytes - made.storage.stored_bits / 8 < 20_000


def test_plan_json_tells_what_rounding_adds(llama_directory: Path, tmp_path: Path) -> None:
    made = make(llama_directory, "dense", {}, ("ffn.up",), tmp_path, Rounding(bits=4))
    (entry,) = made.manifest["modules"]
    (exact,) = load_factors(made.placement.factors, ("ffn.up",))
    name = f"model.layers.{LAYER}.mlp.up_proj"
    held = load_model(made.target, CPU).get_submodule(name).weight.detach()
    gap = (held - exact.store.dense(0)).norm() / exact.store.dense(0).norm()
    assert entry["relative_error"] == 0.0
    assert entry["rounding_error"] == pytest.approx(float(gap), rel=1e-5)
    assert 0.05 < entry["rounding_error"] < 0.3
    assert entry["format"] == "rounded"


def test_scales_are_those_of_the_storage_dtype(llama_directory: Path, tmp_path: Path) -> None:
    """Codes are the nearest under the scale that is stored, not under a finer one."""
    made = make(llama_directory, "dense", {}, ("ffn.up",), tmp_path, Rounding(bits=8), "bfloat16")
    held = load_model(made.target, CPU).get_submodule(f"model.layers.{LAYER}.mlp.up_proj").weight
    (exact,) = load_factors(made.placement.factors, ("ffn.up",))
    weight = exact.store.dense(0)
    scale = float((weight.abs().max() / 127).bfloat16())
    steps = (weight / scale).round().clamp(-127, 127)
    torch.testing.assert_close(held.detach(), steps * scale)


def test_only_placed_modules_are_rounded(tmp_path: Path) -> None:
    """In GPT-2 q, k and v are one layer: compressing q must leave k and v exact."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=96, n_embd=32, n_layer=2, n_head=4)
    model = tmp_path / "gpt2"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    made = make(model, "dense", {}, ("attention.q",), tmp_path / "x", Rounding(bits=4))
    stores = json.loads((made.target / "config.json").read_text())["tensorpress"]["stores"]
    assert {s["name"]: s["format"] for s in stores} == {
        "attention_q": "rounded", "attention_k": "dense", "attention_v": "dense"
    }  # fmt: skip
    plain = AutoModelForCausalLM.from_pretrained(model)
    ours = load_model(made.target, CPU)
    name = f"transformer.h.{LAYER}.attn.c_attn"
    before, after = (m.get_submodule(name).weight.detach() for m in (plain, ours))
    after = after.mT  # GPT-2 keeps it transposed
    assert torch.equal(before[:, 32:], after[:, 32:])
    assert 0.01 < float((before - after)[:, :32].norm() / before[:, :32].norm()) < 0.3


def test_experts_and_densify(moe_directory: Path, tmp_path: Path) -> None:
    made = make(moe_directory, "td_moe", {"ratio": 0.3}, EXPERTS, tmp_path, Rounding(bits=8))
    ours = load_model(made.target, CPU)
    densify(made.target, tmp_path / "dense")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        found = ours(input_ids=ids).logits
        torch.testing.assert_close(again(input_ids=ids).logits, found, atol=2e-5, rtol=1e-4)
    exact = make(moe_directory, "td_moe", {"ratio": 0.3}, EXPERTS, tmp_path / "exact", None)
    with torch.inference_mode():
        unrounded = load_model(exact.target, CPU)(input_ids=ids).logits
    assert 0 < float((found - unrounded).abs().max()) < 0.05


ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorpress":
            raise ImportError("tensorpress is not installed here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForCausalLM
BITS, DTYPES, found = (3, 4, 8), ("float32", "bfloat16"), {}
for bits in BITS:
    for dtype in DTYPES:
        model = AutoModelForCausalLM.from_pretrained(
            f"{sys.argv[1]}/{bits}/out", trust_remote_code=True, dtype=getattr(torch, dtype)
        )
        found[f"{bits} {dtype}"] = model.eval()(input_ids=torch.arange(40)[None]).logits.detach()
torch.save(found, sys.argv[1] + "/logits.pt")
"""


def test_loads_with_transformers_and_bundled_code_alone(
    llama_directory: Path, tmp_path: Path
) -> None:
    for bits in (3, 4, 8):
        chosen = Rounding(bits=bits, group_size=16)
        make(llama_directory, "svd", {"rank": 12}, FFN, tmp_path / str(bits), chosen, "bfloat16")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, env=environment)
    found = torch.load(tmp_path / "logits.pt")
    assert len(found) == 6
    for name, logits in found.items():
        bits, dtype = name.split()
        ours = load_model(tmp_path / bits / "out", CPU, getattr(torch, dtype))
        with torch.inference_mode():
            torch.testing.assert_close(logits, ours(input_ids=torch.arange(40)[None]).logits)
