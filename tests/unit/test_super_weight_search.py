"""Super weights: planted ones are found exactly and nothing else, mapped, and named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.families import SIZES, TEXTS
from support.planted import at, planted, select
from support.stages import job_of
from support.workspace import tiny_llama, tiny_moe
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.analysis.super_weights import (
    Search,
    block_maxima,
    find_super_weights,
    layer_peaks,
    magnitudes_near,
)
from tensorpress.architectures import published as published_list
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.published import SuperWeight, published
from tensorpress.checkpoints.loading import matrices
from tensorpress.config.tasks.super_weights import Spec as SuperWeights
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.tasks import super_weights as super_weights_task

LLAMA = architecture_of(tiny_llama().config.to_dict(), "test")
IDS = torch.randint(300, (1, 12), generator=torch.Generator().manual_seed(0))


def places_of(search: Search) -> list[SuperWeight]:
    return [peak.place for peak in search.found]


@pytest.mark.parametrize(
    "places",
    [
        [at(1, 7, 30)],
        [at(0, 3, 11), at(2, 20, 40)],
        [at(1, 5, 8), at(1, 5, 33)],  # two weights of one row, as in Llama-13B
    ],
)
def test_planted_super_weights_are_found_exactly(places: list[SuperWeight]) -> None:
    model = planted(*places)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    search = find_super_weights(model, LLAMA, IDS, 50, 16)
    assert sorted(places_of(search), key=str) == sorted(places, key=str)
    assert search.complete
    for peak in search.found:
        assert min(abs(peak.input), abs(peak.output)) > 50
        assert abs(peak.output) > 4 * abs(peak.input)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_consequences_of_a_super_weight_are_not_super_weights() -> None:
    """Layer 2 answers the huge channel with a huge output, and is quiet without it."""
    cause = at(0, 3, 11)
    model = planted(cause)
    mlp = model.model.layers[2].mlp
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[40] = 0
            linear.weight[40, cause.row] = 1.6
        mlp.down_proj.weight[9, 40] = 1.5
    first = layer_peaks(model, LLAMA, IDS)
    assert first[2].place == at(2, 9, 40)
    assert first[2].height > 50
    assert layer_peaks(model, LLAMA, IDS, [cause])[2].height < 50
    assert places_of(find_super_weights(model, LLAMA, IDS, 50, 16)) == [cause]


def test_zeroed_weights_leave_the_output_that_zeros_would() -> None:
    places = [at(1, 7, 30), at(2, 20, 40)]
    model = planted(*places)
    supposed = layer_peaks(model, LLAMA, IDS, places)
    with torch.no_grad():
        for place in places:
            model.model.layers[place.layer].mlp.down_proj.weight[place.row, place.column] = 0
    written = layer_peaks(model, LLAMA, IDS)
    for one, other in zip(supposed, written, strict=True):
        assert one.output == pytest.approx(other.output, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("model_type", TEXTS)
def test_every_family(model_type: str) -> None:
    """Weights are planted through ``matrices``, which are views wherever the family keeps them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=96, **SIZES[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    architecture, place = architecture_of(config.to_dict(), "test"), at(1, 9, 21)
    experts = "ffn.down" not in architecture.shape(1).modules
    if not experts:
        gated = "ffn.gate" in architecture.family.linears
        for module in ("ffn.gate", "ffn.up") if gated else ("ffn.up",):
            reading = torch.randn(32, generator=torch.Generator().manual_seed(1))
            scale = 5 if gated else 200
            matrices(model, architecture, 1, module)[0, place.column] = scale * reading
        down = matrices(model, architecture, 1, "ffn.down")[0]
        down[:, place.column], down[place.row, place.column] = 0, 5
    search = find_super_weights(model, architecture, IDS % 96, 50, 16)
    assert places_of(search) == ([] if experts else [place])


def test_nothing_is_found_where_nothing_is() -> None:
    search = find_super_weights(tiny_llama(), LLAMA, IDS, 50, 16)
    assert search.found == ()
    assert search.complete
    assert [peak.place.layer for peak in search.peaks] == [0, 1, 2]
    assert all(0 < peak.height < 50 for peak in search.peaks)
    moe = tiny_moe()
    experts = find_super_weights(moe, architecture_of(moe.config.to_dict(), "test"), IDS, 50, 16)
    assert experts == Search((), (), complete=True)


def test_iterations_limit_the_search() -> None:
    model = planted(at(0, 3, 11), at(2, 20, 40))
    search = find_super_weights(model, LLAMA, IDS, 50, 1)
    assert places_of(search) == [at(0, 3, 11)]
    assert not search.complete


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = planted(at(0, 3, 11))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.inf
    with pytest.raises(TensorpressError, match=r"layer 1: ffn\.down gives values that are not"):
        find_super_weights(model, LLAMA, IDS, 50, 16)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.model.layers[0].mlp.down_proj.weight[3, 11] == 5


def test_maps_of_magnitudes() -> None:
    matrix = torch.zeros(10, 7)
    matrix[9, 6], matrix[4, 0] = -3.0, 2.0
    blocks = block_maxima(matrix, 3)  # blocks of 4 by 3, the last ones cut
    assert set(blocks) == {(r, c) for r in (0, 4, 8) for c in (0, 3, 6)}
    assert {place: value for place, value in blocks.items() if value} == {(8, 6): 3.0, (4, 0): 2.0}
    near = magnitudes_near(matrix, 9, 6, 1)
    assert near == {(8, 5): 0.0, (8, 6): 0.0, (9, 5): 0.0, (9, 6): 3.0}


def test_published_models_are_recognised_by_their_sizes() -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
    }
    assert published(architecture_of(config, "test")) == {
        at(2, 3968, 7003): "Llama-7B",
        at(1, 2533, 7890): "Llama-2-7B",
    }
    wider = {**config, "intermediate_size": 14336}
    assert published(architecture_of(wider, "test")) == {at(1, 2070, 7310): "Mistral-7B"}
    assert published(architecture_of({**config, "vocab_size": 32001}, "test")) == {}
    for sizes, places in published_list.PUBLISHED.values():
        hidden, inner, layers, _ = sizes
        assert all(p[0] < layers and p[1] < hidden and p[2] < inner for p in places)


def test_task_names_found_and_published(
    planted_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"Tiny": ((32, 48, 3, 300), ((1, 7, 30), (2, 1, 2)))}
    monkeypatch.setattr(published_list, "PUBLISHED", ours)
    rows = super_weights_task.evaluate(
        job_of(planted_directory), SuperWeights(kind="super_weights")
    )
    assert [(row.value, row.text) for row in select(rows, "super_weights")] == [(1, "")]
    named = {(r.layer, r.module, r.row, r.column): r for r in select(rows, "super_weight")}
    assert named[1, "ffn.down", 7, 30].text == "found, published for Tiny"
    assert named[1, "ffn.down", 7, 30].value == 5
    assert named[2, "ffn.down", 1, 2].text == "not found, published for Tiny"
    assert len(named) == 2
    assert [abs(row.value) > 50 for row in select(rows, "super_weight_output")] == [True]
    assert [row.layer for row in select(rows, "input_peak")] == [0, 1, 2]
    assert {row.layer for row in select(rows, "block_maximum")} == {1}
    assert max(row.value for row in select(rows, "block_maximum")) == 5
    centre = {(row.row, row.column): row.value for row in select(rows, "magnitude")}
    assert centre[7, 30] == 5
    assert len(centre) == 16 * 17  # cut at the upper edge


def test_task_says_that_there_is_none(llama_directory: Path, moe_directory: Path) -> None:
    spec = SuperWeights(kind="super_weights")
    rows = super_weights_task.evaluate(job_of(llama_directory), spec)
    (count,) = select(rows, "super_weights")
    assert count.value == 0
    assert count.text.startswith("none: at no token do input and output")
    largest = max(select(rows, "largest_weight"), key=lambda row: abs(row.value))
    assert {row.layer for row in select(rows, "block_maximum")} == {largest.layer}
    assert max(row.value for row in select(rows, "magnitude")) == pytest.approx(abs(largest.value))
    experts = super_weights_task.evaluate(job_of(moe_directory), spec)
    assert [row.text for row in select(experts, "super_weights")] == [
        "none: no layer has an ffn.down"
    ]
    assert [row.layer for row in select(experts, "skipped")] == [0, 1]
