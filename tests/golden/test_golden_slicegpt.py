"""SliceGPT, with one rotation and as published, against golden2.json."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from support.oracle import DATA2, inputs, needs_golden
from support.transforms import sliced
from support.workspace import ROOT
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.linalg.rotation import leading_directions
from tensorpress.planning.sizes import values_of
from tensorpress.running.oom import CPU
from tensorpress.stages.transformation import write_transformed
from tensorpress.transforms.slicegpt import Spec

pytestmark = needs_golden
SIZES = [
    case
    for case in DATA2.get("storage_from_shapes", {}).get("slicegpt_llama_2_7b", [])
    if case["width"] % 32 == 0
]
NORMS = ("input_layernorm", "post_attention_layernorm")
PUBLISHED = [
    case
    for case in DATA2.get("slicegpt", {}).get("cases", [])
    if case["slice_head"] and not case["embedding_mean_subtracted"] and case["width"] % 6 == 0
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


def published_moments(model: LlamaForCausalLM, ids: Tensor, width: int) -> dict[str, Tensor]:
    """Moments of the stream in front of every norm, where it was cut at all norms before."""
    decoder = model.model
    cuts: list[Tensor] = []
    seen: list[Tensor] = []

    def cut(point: int, stream: Tensor) -> Tensor:
        if point < len(cuts):
            return stream @ cuts[point]
        if point == len(cuts) and len(seen) == point:
            rows = stream.flatten(0, 1)
            seen.append(rows.mT @ rows)
        return stream

    def before(point: int, module: nn.Module, inputs: tuple) -> tuple:
        return (cut(point, inputs[0]), *inputs[1:])

    def attended(point: int, layer: nn.Module, block: nn.Module, _: tuple, output: tuple) -> tuple:
        stream = streams[layer]
        return (cut(point, stream + output[0]) - stream, *output[1:])

    streams: dict[nn.Module, Tensor] = {}
    hooks = [decoder.norm.register_forward_pre_hook(partial(before, 2 * len(decoder.layers)))]
    for number, layer in enumerate(decoder.layers):
        keep = lambda module, inputs, layer=layer: streams.__setitem__(layer, inputs[0])  # noqa: E731
        hooks += [
            layer.register_forward_pre_hook(partial(before, 2 * number)),
            layer.input_layernorm.register_forward_pre_hook(keep),
            layer.self_attn.register_forward_hook(partial(attended, 2 * number + 1, layer)),
        ]
    norms = [f"model.layers.{n // 2}.{NORMS[n % 2]}" for n in range(2 * len(decoder.layers))]
    with torch.inference_mode():
        for _ in (*norms, "model.norm"):
            model(input_ids=ids)
            basis = leading_directions(seen[-1:], width)
            cuts.append(basis @ basis.mT)
    for hook in hooks:
        hook.remove()
    return dict(zip([*norms, "model.norm"], seen, strict=True))


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: f"{case['input'][-2]}-{case['width']}")
def test_a_rotation_for_every_norm(case: dict, tmp_path: Path) -> None:
    """At widths that transformers takes; the cases without a sliced head leave the last layer."""
    golden = inputs("golden2_inputs")
    source = dense(case, tmp_path / "dense")
    calibration, test = (
        torch.tensor(golden.ids(*given)) for given in ((31, 4, 32, 128), (32, 2, 32, 128))
    )
    whole = load_model(source, CPU, torch.float64)
    moments = published_moments(whole, calibration, case["width"])
    spec = Spec(transform="slicegpt", width=case["width"], rotations="blocks")
    narrow = tmp_path / "narrow"
    write_transformed(source, spec, moments, narrow)
    with torch.inference_mode():
        found = load_model(narrow, CPU, torch.float64)(input_ids=test).logits
        wanted = whole(input_ids=test).logits
    error = float((found - wanted).norm() / wanted.norm())
    assert error == pytest.approx(case["logits_rel_test"], abs=1e-5)
    shapes = {n: s for n, s in Checkpoint.open(narrow).shapes().items() if len(s) == 2}
    assert sum(a * b for a, b in shapes.values()) == case["values"]
    turns = [s for n, s in shapes.items() if ".shortcuts." in n]
    assert sum(a * b for a, b in turns) == case["shortcut_values"]


@pytest.mark.parametrize("case", SIZES, ids=lambda case: str(case["width"]))
def test_values_of_llama_2_7b(case: dict) -> None:
    """Of matrices, from shapes alone, at widths that transformers takes."""
    config = json.loads((ROOT / "studies/configs/llama-2-7b.json").read_text(encoding="utf-8"))
    architecture = architecture_of(config, "golden")
    made = Spec(transform="slicegpt", width=case["width"]).planned(architecture, "golden")
    before, after = values_of(architecture), values_of(made)
    assert before == case["dense_values"]
    assert 100 * (1 - after / before) == pytest.approx(case["saved_percent_one_rotation"])
    blocks = Spec(transform="slicegpt", width=case["width"], rotations="blocks")
    turned = values_of(blocks.planned(architecture, "golden"))
    assert turned - after == 2 * architecture.layers * case["width"] ** 2
    if case["slice_head"]:
        assert turned == case["values"]
