"""Families found by structure: as the files say it, kept, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import FOUND, SIZES
from support.workspace import ROOT
from transformers import AutoConfig

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families import found
from tensorpress.architectures.families.table import FAMILIES, architecture_of
from tensorpress.architectures.layers import group_of
from tensorpress.architectures.structure import search
from tensorpress.commands import families
from tensorpress.errors import TensorpressError
from tensorpress.methods.registry import load

WRITTEN = sorted(FAMILIES.keys() - {"bert", "gpt_oss", "roberta", "vit"})
"""Causal models; GPT-OSS's clamped gate is for its file to know."""
QUICK = ("gpt_bigcode", "rwkv", "olmo_hybrid", "stablelm")
"""Types of docs/families.md that are looked at in every run of the tests."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is found is kept elsewhere, and nothing was found before."""
    monkeypatch.setattr(found, "_KEPT", tmp_path)
    found._family.cache_clear()
    return tmp_path


def config_of(model_type: str) -> dict[str, Any]:
    sizes = {**SIZES, **FOUND}[model_type]
    return AutoConfig.for_model(model_type, vocab_size=96, **sizes).to_dict()


@pytest.mark.parametrize("model_type", WRITTEN)
def test_the_search_finds_what_the_files_say(model_type: str) -> None:
    config = config_of(model_type)
    written = Architecture(FAMILIES[model_type], config)
    structure = search.find(config, "test")
    family = written.family
    assert (structure.layer, structure.embedding) == (family.layer, family.embedding)
    assert structure.head == family.head
    assert structure.shapes == written.shapes
    for shape in written.shapes[:-1]:
        for module in shape.modules:
            if group_of(module) != "experts":
                own, other = structure.linears[module], family.linears[module]
                assert own.path == other.path
                sides = fused_sides(shape, own.path, structure.linears)
                places = torch.arange(sides[0] * sides[1]).view(sides)
                places = places.mT if own.transposed else places
                taken = own.take(places, shape.heads)
                assert torch.equal(taken, other.take(places, shape.heads)), module
    if family.experts is not None:
        assert structure.experts is not None
        assert structure.experts.module == family.experts.module
        assert structure.experts.per_expert == family.experts.per_expert
        assert structure.experts.interleaved == family.experts.interleaved
        assert structure.experts.transposed == family.experts.transposed


def fused_sides(shape: Any, path: str, linears: dict[str, Any]) -> tuple[int, int]:
    """Outputs and inputs of a linear layer, of one module or of several."""
    here = {module for module, slot in linears.items() if slot.path == path}
    inside = [size for module, size in shape.modules.items() if module in here]
    return sum(size.out_features for size in inside), inside[0].in_features


def test_what_was_found_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("phi3")
    first = architecture_of(config, "test")
    (file,) = kept.glob("*.json")
    assert json.loads(file.read_text())["layer"] == "model.layers.{layer}"
    found._family.cache_clear()
    monkeypatch.setattr(search, "find", None)  # nobody looks again
    assert architecture_of({**config, "architectures": ["Phi3ForCausalLM"]}, "test").shapes == (
        first.shapes
    )
    file.write_text("{}")
    found._family.cache_clear()
    with pytest.raises(TypeError):
        architecture_of(config, "test")


def test_a_large_model_has_the_parts_of_a_small_one() -> None:
    config = AutoConfig.for_model(
        "phi3", hidden_size=384, num_attention_heads=12, num_key_value_heads=4, vocab_size=100,
        intermediate_size=500, num_hidden_layers=2, pad_token_id=0,
    ).to_dict()  # fmt: skip
    made = architecture_of(config, "test")
    q, k = (made.family.linears[f"attention.{name}"] for name in "qk")
    assert q.path == k.path == "self_attn.qkv_proj"
    assert (q.shares, q.part, q.groups, k.part) == ((384, 128, 128), 0, 1, 1)
    assert made.shape(0).kv_heads == 4
    assert made.shape(1).modules["ffn.up"].out_features == 500


def test_what_splits_heads_is_refused_where_there_are_none() -> None:
    shape = architecture_of(config_of("deepseek_v3"), "test").shape(0)
    assert {"attention.q_down", "attention.q_up", "attention.kv_down", "attention.kv_up"} < {
        *shape.modules
    }
    spec = load("tt_per_head").Spec(method="tt_per_head", order=2, rank=3)
    with pytest.raises(TensorpressError, match=r"splits attention into heads, .* layer 0 are not"):
        spec.check(shape, "attention")


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("deit", "transformers has no causal language model of this type"),
        ("bitnet", "no attention of it computes what is known"),
        ("bert-generation", "its tokens see later ones"),
        ("nothing", "a small model of it does not run"),
    ],
)
def test_what_is_not_understood_is_refused(model_type: str, reason: str) -> None:
    with pytest.raises(TensorpressError) as refused:
        architecture_of({"model_type": model_type}, "models.m")
    said = str(refused.value)
    assert said.startswith(f"models.m: model_type {model_type!r} has no family file and a")
    assert reason in said
    assert "\n" not in said


def page() -> str:
    return (ROOT / "docs/families.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model_type", QUICK)
def test_the_page_says_what_is_found(model_type: str) -> None:
    (line,) = [line for line in page().splitlines() if line.startswith(f"| `{model_type}` |")]
    assert line in families.page(families.rows([model_type]))


def test_the_page_lists_forty_types_and_all_that_have_tests() -> None:
    known = {line.split("`")[1] for line in page().splitlines() if "| by " in line}
    assert len(known) >= 40
    assert {*FOUND, *FAMILIES} - {"bert", "vit"} <= known


@pytest.mark.slow
def test_the_page_is_what_all_types_give() -> None:
    assert families.page(families.rows(families.all_types())).strip() == page().strip()
