"""Super weights: planted ones are found exactly, restored as told, and kept by tt_sparse."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from test_families import SIZES
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from workspace import ROOT, save_tiny, tiny_llama, tiny_moe

from tensorpress.analysis import published as published_list
from tensorpress.analysis.published import SuperWeight, published
from tensorpress.analysis.super_weights import (
    Search,
    block_maxima,
    find_super_weights,
    layer_peaks,
    magnitudes_near,
    restoration,
    watched_entries,
)
from tensorpress.assembly import LayerFactors, assemble
from tensorpress.checkpoint import Checkpoint
from tensorpress.decomposition import decompose_layer, measure
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.specs import Restoration, SuperWeights
from tensorpress.evaluation.tasks import restoration as restoration_task
from tensorpress.evaluation.tasks import super_weights as super_weights_task
from tensorpress.factorfile import save_factors
from tensorpress.families.llama import FAMILY as LLAMA
from tensorpress.families.qwen3_moe import FAMILY as QWEN3_MOE
from tensorpress.families.table import FAMILIES, family_of
from tensorpress.formats.modules import FactoredLinear
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.loading import load_model, matrices
from tensorpress.manifest import Provenance, write_manifest
from tensorpress.registry import load
from tensorpress.reporting import run_query
from tensorpress.rows import DecompositionRow, EvalRow, ResultRow, write_rows

CPU = torch.device("cpu")
IDS = torch.randint(300, (1, 12), generator=torch.Generator().manual_seed(0))


def at(layer: int, row: int, column: int) -> SuperWeight:
    return SuperWeight(layer=layer, row=row, column=column)


def plant(model: LlamaForCausalLM, place: SuperWeight, value: float = 5.0) -> None:
    """Make an input channel of ``ffn.down`` huge and let one weight carry it on."""
    mlp = model.model.layers[place.layer].mlp
    reading = 2.5 * torch.randn(
        mlp.gate_proj.in_features, generator=torch.Generator().manual_seed(place.column)
    )
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj):  # silu(g) g: never below zero
            linear.weight[place.column] = reading
        mlp.down_proj.weight[place.row, place.column] = value


def planted(*places: SuperWeight) -> LlamaForCausalLM:
    model = tiny_llama()
    for place in places:
        plant(model, place)
    return model


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


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family(model_type: str) -> None:
    """Weights are planted through ``matrices``, which are views wherever the family keeps them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=96, **SIZES[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    family, place = FAMILIES[model_type], at(1, 9, 21)
    experts = "ffn.down" not in family.layer_shape(config.to_dict(), 1).modules
    if not experts:
        gated = "ffn.gate" in family.linears
        for module in ("ffn.gate", "ffn.up") if gated else ("ffn.up",):
            reading = torch.randn(32, generator=torch.Generator().manual_seed(1))
            matrices(model, family, 1, module)[0, place.column] = (5 if gated else 200) * reading
        down = matrices(model, family, 1, "ffn.down")[0]
        down[:, place.column], down[place.row, place.column] = 0, 5
    search = find_super_weights(model, family, IDS % 96, 50, 16)
    assert places_of(search) == ([] if experts else [place])


def test_nothing_is_found_where_nothing_is() -> None:
    search = find_super_weights(tiny_llama(), LLAMA, IDS, 50, 16)
    assert search.found == ()
    assert search.complete
    assert [peak.place.layer for peak in search.peaks] == [0, 1, 2]
    assert all(0 < peak.height < 50 for peak in search.peaks)
    experts = find_super_weights(tiny_moe(), QWEN3_MOE, IDS, 50, 16)
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


def test_restoration_by_hand() -> None:
    weight = torch.zeros(1, 20, 30)
    weight[0, 4, 5], weight[0, 1, 2], weight[0, 0, 3] = 8.0, -6.0, 3.0
    entries = watched_entries(weight, [(4, 5)], 2, seed=0)
    assert entries["super_weights"].tolist() == [4 * 30 + 5]
    assert entries["next_2"].tolist() == [1 * 30 + 2, 3]
    rebuilt = weight.clone()
    rebuilt[0, 4, 5], rebuilt[0, 1, 2], rebuilt[0, 0, 3] = 6.0, 0.0, 0.0
    alone = restoration(weight, rebuilt, entries["super_weights"])
    assert (alone.entries, alone.absolute_error, alone.relative_error) == (1, 2.0, 0.25)
    lost = restoration(weight, rebuilt, entries["next_2"])
    assert (lost.entries, lost.absolute_error, lost.relative_error) == (2, 4.5, 1.0)


def test_watched_entries_of_stacks_and_small_matrices() -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    entries = watched_entries(weight, [(1, 2)], 64, seed=3)
    assert entries["super_weights"].tolist() == [7, 27, 47]
    rest = set(range(60)) - {7, 27, 47}
    assert set(entries["next_64"].tolist()) == rest
    assert len(set(entries["random_64"].tolist())) == 57
    assert "super_weights" not in watched_entries(weight, [], 64, seed=3)
    drawn = [watched_entries(weight, [], 8, seed)["random_8"].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


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
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
    }
    assert published(LLAMA, config) == {
        at(2, 3968, 7003): "Llama-7B",
        at(1, 2533, 7890): "Llama-2-7B",
    }
    wider = {**config, "intermediate_size": 14336}
    assert published(LLAMA, wider) == {at(1, 2070, 7310): "Mistral-7B"}
    assert published(LLAMA, {**config, "vocab_size": 32001}) == {}
    for sizes, places in published_list.PUBLISHED.values():
        hidden, inner, layers, _ = sizes
        assert all(p[0] < layers and p[1] < hidden and p[2] < inner for p in places)


def job(run: Path, dense: Path | None = None) -> EvaluationJob:
    return EvaluationJob(run, dense, {}, CPU)


def select(rows: list[EvalRow], metric: str) -> list[EvalRow]:
    return [row for row in rows if row.metric == metric]


@pytest.fixture(scope="module")
def planted_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(planted(at(1, 7, 30)), tmp_path_factory.mktemp("planted") / "model")


def test_task_names_found_and_published(
    planted_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"Tiny": ((32, 48, 3, 300), ((1, 7, 30), (2, 1, 2)))}
    monkeypatch.setattr(published_list, "PUBLISHED", ours)
    rows = super_weights_task.evaluate(job(planted_directory), SuperWeights(kind="super_weights"))
    assert [(row.value, row.text) for row in select(rows, "super_weights")] == [(1, "")]
    named = {(row.layer, row.subject): row for row in select(rows, "super_weight")}
    assert named[1, "ffn.down[7,30]"].text == "found, published for Tiny"
    assert named[1, "ffn.down[7,30]"].value == 5
    assert named[2, "ffn.down[1,2]"].text == "not found, published for Tiny"
    assert len(named) == 2
    assert [abs(row.value) > 50 for row in select(rows, "super_weight_output")] == [True]
    assert [row.layer for row in select(rows, "input_peak")] == [0, 1, 2]
    assert {row.layer for row in select(rows, "block_maximum")} == {1}
    assert max(row.value for row in select(rows, "block_maximum")) == 5
    centre = {row.subject: row.value for row in select(rows, "magnitude")}
    assert centre["7,30"] == 5
    assert len(centre) == 16 * 17  # cut at the upper edge


def test_task_says_that_there_is_none(llama_directory: Path, moe_directory: Path) -> None:
    spec = SuperWeights(kind="super_weights")
    rows = super_weights_task.evaluate(job(llama_directory), spec)
    (count,) = select(rows, "super_weights")
    assert count.value == 0
    assert count.text.startswith("none: at no token do input and output")
    largest = max(select(rows, "largest_weight"), key=lambda row: abs(row.value))
    assert {row.layer for row in select(rows, "block_maximum")} == {largest.layer}
    assert max(row.value for row in select(rows, "magnitude")) == pytest.approx(abs(largest.value))
    experts = super_weights_task.evaluate(job(moe_directory), spec)
    assert [row.text for row in select(experts, "super_weights")] == [
        "none: no layer has an ffn.down"
    ]
    assert [row.layer for row in select(experts, "skipped")] == [0, 1]


def compressed(model: Path, method: str, settings: dict, group: str, folder: Path) -> Path:
    """A run of layer 1 as the pipeline makes it, with its ``plan.json``."""
    checkpoint = Checkpoint.open(model)
    family = family_of(checkpoint.config, "test")
    spec = load(method).Spec(method=method, **settings)
    factors, seconds, weights = decompose_layer(model, family, spec, group, 1, None, CPU)
    shapes = family.layer_shape(checkpoint.config, 1).modules
    labels = {"model": "m", "method_name": method, "method": method, "group": group}
    file, rows = folder / "factors.safetensors", folder / "rows.parquet"
    folder.mkdir()
    save_factors(factors, file)
    write_rows(measure(factors, weights, shapes, labels, 1, seconds), DecompositionRow, rows)
    assemble(model, family, [LayerFactors(1, tuple(weights), file)], "float32", folder / "run")
    placed = Provenance(1, tuple(weights), method, settings, file, rows)
    write_manifest([placed], "float32", folder / "run")
    return folder / "run"


def test_task_restoration_against_the_rebuilt_matrices(
    planted_directory: Path, tmp_path: Path
) -> None:
    run = compressed(planted_directory, "svd", {"rank": 3}, "ffn", tmp_path / "svd")
    rows = restoration_task.evaluate(job(run, planted_directory), Restoration(kind="restoration"))
    assert [row.value for row in select(rows, "super_weights")] == [1]
    errors = {(r.metric, r.subject): r for r in rows if r.subject}
    (stored,) = [
        m
        for m in json.loads((run / "plan.json").read_text())["modules"]
        if m["module"] == "ffn.down"
    ]
    share = errors["stored_share", "ffn.down"].value
    assert (
        share == pytest.approx(3 * (32 + 48) / (32 * 48)) == stored["stack_bits"] / (32 * 32 * 48)
    )
    true = load_model(planted_directory, CPU).model.layers[1].mlp.down_proj.weight
    linear = load_model(run, CPU).model.layers[1].mlp.down_proj
    assert isinstance(linear, FactoredLinear)
    off = float((linear.weight - true)[7, 30].detach().abs())
    row = errors["absolute_error", "ffn.down: super_weights"]
    assert (row.value, row.samples, row.layer, row.text) == (pytest.approx(off), 1, 1, "svd")
    relative = {key[1]: r.value for key, r in errors.items() if key[0] == "relative_error"}
    assert relative["ffn.down: super_weights"] == pytest.approx(off / 5)
    # one entry of norm 5 among noise of 0.02 is what a truncated SVD keeps first
    assert relative["ffn.down: super_weights"] < 0.01 < relative["ffn.down: next_64"]
    assert {subject.split(": ")[0] for subject in relative} == {"ffn.gate", "ffn.up", "ffn.down"}
    assert "ffn.gate: super_weights" not in relative


def test_task_restoration_of_experts_and_given_places(moe_directory: Path, tmp_path: Path) -> None:
    run = compressed(moe_directory, "drop", {}, "experts", tmp_path / "drop")
    place = SuperWeight(layer=1, module="experts.up", row=2, column=3)
    spec = Restoration(kind="restoration", super_weights=(place,))
    rows = restoration_task.evaluate(job(run, moe_directory), spec)
    lost = select(rows, "relative_error")
    assert {row.value for row in lost} == {1.0}
    (ours,) = [row for row in lost if row.subject == "experts.up: super_weights"]
    assert ours.samples == 4  # one an expert
    for given, allowed in [
        ({"layer": 2, "row": 0, "column": 0}, "0 to 1"),
        ({"layer": 1, "row": 0, "column": 0}, "attention.q"),
        ({"layer": 1, "module": "experts.up", "row": 24, "column": 0}, r"\(23, 31\)"),
    ]:
        spec = Restoration(kind="restoration", super_weights=(SuperWeight(**given),))
        with pytest.raises(TensorpressError, match=f"super_weights.*allowed: .*{allowed}"):
            restoration_task.evaluate(job(run, moe_directory), spec)


def test_task_restoration_wants_a_compressed_run(llama_directory: Path) -> None:
    with pytest.raises(TensorpressError, match=r"plan\.json: missing: nothing was replaced"):
        restoration_task.evaluate(
            job(llama_directory, llama_directory), Restoration(kind="restoration")
        )


def test_tt_sparse_keeps_super_weights_where_they_belong(
    planted_directory: Path, tmp_path: Path
) -> None:
    """A small entry, that would not be kept for its size, is kept in its layer and module only."""
    settings = {"order": 2, "rank": 1, "outliers": 1e-9}
    given = [{"layer": 1, "row": 4, "column": 9}, {"layer": 2, "row": 1, "column": 1}]
    plain = load("tt_sparse").Spec(method="tt_sparse", **settings)
    spec = load("tt_sparse").Spec(method="tt_sparse", **settings, super_weights=given)
    kept: dict[int, list[tuple[int, ...]]] = {}
    for layer in range(3):
        factors, _, weights = decompose_layer(
            planted_directory, LLAMA, spec, "ffn", layer, None, CPU
        )
        config = Checkpoint.open(planted_directory).config
        layouts = spec.layouts(LLAMA.layer_shape(config, layer), "ffn")
        for each, layout in zip(factors, layouts, strict=True):
            rows, columns = each.store.coordinates(0)
            extra = set(zip(rows.tolist(), columns.tolist(), strict=True))
            matrix = weights[each.modules[0]]
            extra.remove(divmod(int(matrix.abs().argmax()), matrix.shape[1]))
            assert layout.settings["outliers"] == [1 + len(extra)]
            kept.setdefault(layer, []).extend(extra)
            for place in extra:
                assert float(each.store.dense(0)[place]) == pytest.approx(float(matrix[place]))
    assert kept == {0: [], 1: [(4, 9)], 2: [(1, 1)]}
    assert spec.needs_number
    assert not plain.needs_number


def test_tt_sparse_refuses_super_weights_outside_and_unknown_modules() -> None:
    layer = LayerShape(8, 1, 1, 8, {"ffn.down": ModuleShape(8, 12)}, number=3)
    spec = load("tt_sparse").Spec(
        method="tt_sparse", order=2, rank=2, super_weights=[{"layer": 3, "row": 8, "column": 0}]
    )
    with pytest.raises(TensorpressError, match=r"super_weights: \(8, 0\) is outside of ffn\.down"):
        spec.layouts(layer, "ffn")
    with pytest.raises(ValueError, match=r"allowed: attention\.q"):
        SuperWeight(layer=0, module="ffn.dwn", row=0, column=0)


def test_sizes_tell_layers_with_super_weights_apart(llama_directory: Path) -> None:
    from tensorpress.sizing import MetaModel

    config = Checkpoint.open(llama_directory).config
    spec = load("tt_sparse").Spec(
        method="tt_sparse", order=2, rank=2, super_weights=[{"layer": 1, "row": 4, "column": 9}]
    )
    model = MetaModel("m", config)
    counts = [
        {layout.modules[0]: layout.settings["outliers"] for layout, _ in built}
        for built in (model.stores("tt", spec, None, "ffn", layer) for layer in range(3))
    ]
    assert [count["ffn.down"] for count in counts] == [[1], [2], [1]]
    assert [count["ffn.up"] for count in counts] == [[1], [1], [1]]


def test_queries_put_errors_beside_what_is_stored(planted_directory: Path, tmp_path: Path) -> None:
    run = compressed(planted_directory, "svd", {"rank": 3}, "ffn", tmp_path / "svd")
    measured = {
        ("baseline", "super_weights"): super_weights_task.evaluate(
            job(planted_directory), SuperWeights(kind="super_weights")
        ),
        ("svd", "restoration"): restoration_task.evaluate(
            job(run, planted_directory), Restoration(kind="restoration")
        ),
    }
    other = {name: "" if hint is str else 0 for name, hint in get_type_hints(ResultRow).items()}
    rows = [
        ResultRow(
            **{**other, **dataclasses.asdict(row), "model": "m", "recipe": recipe, "kind": kind}
        )
        for (recipe, kind), found in measured.items()
        for row in found
    ]
    write_rows(rows, ResultRow, tmp_path / "results.parquet")

    def ask(name: str) -> list[dict]:
        tables = {"results": tmp_path / "results.parquet"}
        return run_query(name, tables, ROOT / "queries").df().to_dict("records")

    down = [row for row in ask("restoration") if row["module"] == "ffn.down"]
    assert [row["entries"] for row in down] == ["next_64", "random_64", "super_weights"]
    assert all(row["has_super_weight"] for row in down)
    assert all(row["stored_percent"] == pytest.approx(100 * 3 * 80 / 1536) for row in down)
    assert not any(r["has_super_weight"] for r in ask("restoration") if r["module"] == "ffn.up")
    (weight,) = [row for row in ask("super_weights") if row["metric"] == "super_weight"]
    assert (weight["layer"], weight["row"], weight["column"]) == (1, 7, 30)
    cells = [row for row in ask("weight_map") if row["metric"] == "magnitude"]
    assert max(cells, key=lambda row: row["magnitude"]).items() >= {"row": 7, "column": 30}.items()
