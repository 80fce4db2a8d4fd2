"""The plan: shared work, keys that move with what they depend on, checks against shapes."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import save_file
from support.workspace import ROOT, tiny_params, tiny_text

from tensorpress.architectures.layers import LayerShape
from tensorpress.config.params import load, parse
from tensorpress.errors import TensorpressError
from tensorpress.methods.layout import Layout
from tensorpress.methods.registry import METHODS
from tensorpress.methods.svd import Spec as Svd
from tensorpress.planning.jobs import live_paths, slow_imports
from tensorpress.planning.plan import Plan


def live(params: dict) -> dict[str, list[str]]:
    return live_paths(Plan(parse(params)))


def changed(before: dict, after: dict) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


def test_a_rank_moves_only_what_depends_on_it(inputs: Path) -> None:
    params = tiny_params()
    before = live(params)
    params["methods"]["svd"]["rank"] = 4
    after = live(params)
    moved = {"decompose", "assemble", "evaluate", "aggregate", "reports", "site"}
    assert changed(before, after) == moved
    kept = set(before["evaluate"]) & set(after["evaluate"])
    assert len(kept) == 2  # baseline and drop


def test_an_unrelated_recipe_moves_no_key(inputs: Path) -> None:
    params = tiny_params()
    before = live(params)
    params["recipes"]["more"] = copy.deepcopy(params["recipes"]["svd"])
    params["recipes"]["more"]["steps"][0]["modules"] = ["attention"]
    after = live(params)
    for stage in ("fetch", "calibrate", "decompose", "assemble", "evaluate"):
        assert set(before[stage]) <= set(after[stage])


def test_recipes_share_decompositions_and_equal_runs(inputs: Path) -> None:
    params = tiny_params()
    params["layer_sets"] = {"one": {"middle": 1}, "two": {"middle": 2}, "each": "each"}
    for recipe in params["recipes"].values():
        recipe["layers"] = ["one", "two", "each"]
    plan = Plan(parse(params))
    jobs = {(p.decomposition.id, p.layer) for p in plan.used_decompositions}
    assert len(jobs) == 2 * 3  # two methods, three layers: nothing twice
    # one and each-of-layer-1 are the same run: baseline, 2 recipes x (two, and 3 single layers)
    assert len(plan.runs) == 1 + 2 * 4
    assert len(plan.recipe_runs) == 1 + 2 * 5


def test_content_of_local_inputs_is_part_of_the_key(inputs: Path) -> None:
    before = live(tiny_params())
    (inputs / "inputs/text.txt").write_text(tiny_text() + "\n\nmore")
    after = live(tiny_params())
    assert {"calibrate", "evaluate"} <= changed(before, after)
    (inputs / "inputs/text.txt").write_text(tiny_text())
    assert live(tiny_params()) == before


def tt_sparse(**place: object) -> dict:
    places = [{"layer": 0, "row": 0, "column": 0, **place}]
    return {"method": "tt_sparse", "order": 3, "rank": 2, "super_weights": places}


def by_loss(saved: float, floor: int) -> dict:
    budget = {"saved": saved, "allocate": "loss", "floor": floor}
    return {"method": "svd", "budget": budget, "whiten": "both"}


def test_ranks_by_loss_need_no_room_in_every_matrix(inputs: Path) -> None:
    """Where all may vanish: one may have the values of the others."""
    params = tiny_params()
    params["methods"]["svd"] = by_loss(0.99, 0)
    assert len(Plan(parse(params)).advices) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"methods": {"svd": {"method": "svd", "rank": 33}}},
            "methods.svd.rank: 33 is above the limit at ffn.gate; allowed: 1 to 32",
        ),
        (
            {"methods": {"svd": tt_sparse(layer=3)}},
            "methods.svd.super_weights: ffn.down of layer 3 is not in model 'tiny'; allowed: "
            "layers 0 to 2, attention.q",
        ),
        (
            {"methods": {"svd": tt_sparse(module="experts.down")}},
            "methods.svd.super_weights: experts.down of layer 0 is not in model 'tiny'",
        ),
        (
            {"methods": {"svd": by_loss(0.99, 2)}},
            "methods.svd.budget.floor: 2 takes more than budget.saved: 0.99 leaves; "
            "allowed: 0 to 0",
        ),
        ({"layer_sets": {"one": [7]}}, "layer_sets.one: 7 is not allowed; allowed: 0 to 2"),
        ({"models": {"tiny": {"source": "local", "path": "no"}}}, "models.tiny.path: 'no'"),
        (
            {"tasks": {"heldout": {"kind": "perplexity", "corpus": "text", "window": 4096}}},
            "tasks.heldout.window: 4096 is not allowed; allowed: up to 128",
        ),
        (
            {"corpora": {"text": {"source": "file", "path": "no.txt"}}},
            "corpora.text.path: 'no.txt' is not a file",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(inputs: Path, change: dict, message: str) -> None:
    params = tiny_params()
    for section, value in change.items():
        params[section] = {**params[section], **value}
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(params))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"modules": ["experts"], "method": "svd"}], "'experts' is not in model 'tiny'"),
        (
            [{"modules": ["ffn"], "method": "svd"}, {"modules": ["all"], "method": "drop"}],
            "steps.1.modules: 'ffn.gate' is already compressed by step 0",
        ),
        (
            [{"modules": ["ffn.up"], "method": "tucker"}],
            "method 'tucker' shares factors; allowed: all of ffn",
        ),
        ([{"modules": ["attention"], "method": "tucker"}], "does not decompose attention"),
    ],
)
def test_steps_that_make_no_sense_are_refused(inputs: Path, steps: list, message: str) -> None:
    params = tiny_params()
    params["methods"]["tucker"] = {"method": "tucker_ffn", "ranks": {"out": 8, "in": 8}}
    params["recipes"]["svd"]["steps"] = steps
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(params))
    assert message in str(caught.value)


def test_expert_task_needs_experts(inputs: Path) -> None:
    params = tiny_params()
    params["tasks"]["balance"] = {"kind": "expert_balance", "corpus": "text", "window": 64}
    params["models"]["tiny"]["baseline_tasks"] = ["balance"]
    with pytest.raises(TensorpressError, match="'balance' is not allowed"):
        Plan(parse(params))


def test_groups_must_divide_the_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = yaml.safe_load(Path("studies/hi-moe.yaml").read_text())
    assert {run.run.model.spec.name for run in Plan(parse(params)).recipe_runs} == {
        "moe", "moe_grouped", "moe_himoe", "moe_himoe_published"
    }  # fmt: skip
    params["tasks"]["use"]["groups"] = 3
    with pytest.raises(TensorpressError, match=r"use.groups: 3 is not allowed; allowed: 2, 4, 8, "):
        Plan(parse(params))


def test_unknown_model_type(inputs: Path) -> None:
    config = inputs / "inputs/tiny/config.json"
    config.write_text(config.read_text().replace('"llama"', '"rwkv"'))
    with pytest.raises(TensorpressError, match="'rwkv' has no family file and a structure"):
        Plan(parse(tiny_params()))


def test_hub_models_say_what_to_do_offline(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    params = tiny_params()
    params["models"]["tiny"] = {
        "source": "hub",
        "repository": "nobody/nothing",
        "revision": "0" * 40,
    }
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(params))
    assert "models.tiny: nobody/nothing@00000000" in str(caught.value)
    assert "source: local" in str(caught.value)


def test_shipped_study_shares_its_single_layer_runs() -> None:
    plan = Plan(load(ROOT / "params.yaml"))
    assert len(plan.runs) < len(plan.recipe_runs)
    counts = {stage: len(paths) for stage, paths in live_paths(plan).items()}
    assert counts["reports"] == len(plan.params.reports)


def test_the_study_s_grid_decomposes_every_module_once(inputs: Path) -> None:
    """4 recipes x 8 nested layer sets x LoRA: 7 tensor trains and one Tucker a layer, not 540."""
    study = yaml.safe_load((ROOT / "studies/paper.yaml").read_text(encoding="utf-8"))
    folder = inputs / "inputs/llama2"
    folder.mkdir()
    config = (ROOT / "studies/configs/llama-2-7b.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / "tokenizer.model").touch()
    save_file({}, folder / "model.safetensors")
    study["models"] = {"llama2": {"source": "local", "path": str(folder)}}
    study["corpora"]["wikitext2"] = {"source": "file", "path": "inputs/text.txt"}
    study["corpora"]["recovery"] = {"source": "file", "path": "inputs/other.txt"}
    (inputs / "inputs/other.txt").write_text("Text of its own, to recover on.", encoding="utf-8")
    plain = ("tucker_attention", "tucker_attention_tt_ffn", "tt_ffn", "tt_all")
    names = [*plain, *(f"{name}_lora" for name in plain)]
    study["recipes"] = {name: {**study["recipes"][name], "models": ["llama2"]} for name in names}
    plan = Plan(parse(study))
    assert len(plan.runs) == 1 + 4 * 8
    assert len(plan.recoveries) == 4 * 8
    model = plan.models["llama2"]
    decomposed = [
        layout
        for placement in plan.used_decompositions
        for layout in placement.decomposition.spec.layouts(
            model.architecture.shape(placement.layer), placement.decomposition.group
        )
    ]
    assert len(decomposed) == 8 * (7 + 1)


def test_the_study_of_all_methods_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = Plan(load(Path("studies/all-methods.yaml")))
    missing = set(METHODS) - {p.decomposition.spec.method for p in plan.used_decompositions}
    assert not missing, f"studies/all-methods.yaml: a recipe with {', '.join(sorted(missing))}"


def test_the_study_of_encoders_has_all_that_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = Plan(load(Path("studies/encoders.yaml")))
    missing = set(METHODS) - {p.decomposition.spec.method for p in plan.used_decompositions}
    assert missing == {"td_moe", "mobe"}  # experts


def test_partial_tensorisation_tries_every_set_of_layers_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    plan = Plan(load(Path("studies/ptnn.yaml")))
    tried = {run.layers for run in plan.recipe_runs if run.recipe == "tt_03"}
    assert tried == {each for n in (1, 2, 3, 4) for each in combinations(range(4), n)}
    # attention and FFN of four layers and the embedding, at three errors
    assert len(plan.used_decompositions) == 3 * (2 * 4 + 1)


def test_planning_work_does_not_grow_with_recipes_and_layers(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are laid out for each kind of layer: all three layers of this model are alike."""
    resolved: list[int] = []
    layouts = Svd.layouts

    def counting(spec: Svd, layer: LayerShape, group: str) -> list[Layout]:
        resolved.append(layer.number)
        return layouts(spec, layer, group)

    def work(params: dict) -> tuple[int, int]:
        resolved.clear()
        plan = Plan(parse(params))
        for each in plan.used_decompositions:
            plan.larger(each.decomposition.id, each.layer)
        return len(plan.used_decompositions), len(resolved)

    monkeypatch.setattr(Svd, "layouts", counting)
    params = tiny_params()
    params["methods"]["svd-4"] = {**params["methods"]["svd"], "rank": 4}
    params["layer_sets"] = {"one": {"middle": 1}, "all": "all", "each": "each"}
    recipes = params["recipes"]
    recipes["svd-4"] = {**recipes["svd"], "steps": [{"modules": ["ffn"], "method": "svd-4"}]}
    few, once = work(params)
    for name, recipe in list(recipes.items()):
        recipe["layers"] = ["all", "each"]
        recipes[f"{name}-rounded"] = {**recipe, "rounding": {"bits": 8}}
    many, again = work(params)
    assert (few, many) == (3, 3 * 3)
    assert again == once > 0


def test_what_jobs_import_follows_their_rules(inputs: Path) -> None:
    """And is there, so that a fork imports nothing more."""
    plan = Plan(parse(tiny_params()))
    assert slow_imports(plan, {"aggregate", "fetch_corpus"}) == []
    page = slow_imports(plan, {"report"})
    assert {"tensorpress.stages.report", "papermill", "tensorpress.running.kernel"} <= set(page)
    every = slow_imports(plan, {"fetch_model", "calibrate", "decompose", "assemble", "evaluate"})
    assert {"tensorpress.stages.evaluate", "tensorpress.methods.svd"} <= set(every)
    assert "tensorpress.evaluation.tasks.perplexity" in every
    assert "papermill" not in every
    assert all(find_spec(name) for name in every + page)
