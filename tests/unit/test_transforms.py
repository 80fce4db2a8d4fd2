"""Models made of models: norms folded, and where that stands among the other stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.transforms import logits, tiny
from support.workspace import Workspace, save_tiny, tiny_llama, tiny_params, tiny_text

from tensorpress.architectures.families.table import FAMILIES, architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.stages.transformation import write_transformed
from tensorpress.transforms.registry import spec_class

FOLD = spec_class("fold_norms")(transform="fold_norms")
REFUSED = {"bert", "gpt_neo", "gptj", "roberta"}
FOLDED = sorted(FAMILIES.keys() - REFUSED)


def folded(source: Path, target: Path) -> Path:
    write_transformed(source, FOLD, {}, target)
    return target


def neutral(folder: Path) -> dict[str, bool]:
    """Of every norm of a checkpoint that the family names: whether it does nothing but divide."""
    checkpoint = Checkpoint.open(folder)
    family = checkpoint.architecture.family
    paths = [
        f"{family.layer_path(layer)}.{norm.path}"
        for layer in range(checkpoint.architecture.layers)
        for norm in family.norms
    ]
    found = {}
    for path in [*paths, family.final_norm]:
        names = [name for name in checkpoint.files if name.startswith(f"{path}.")]
        units = {"weight": family.norm_unit, "bias": 0.0}
        tensors = checkpoint.read(names)
        assert tensors, path
        found[path] = all(
            bool((t == units[n.rpartition(".")[2]]).all()) for n, t in tensors.items()
        )
    return found


@pytest.mark.parametrize("model_type", FOLDED)
def test_folded_norms_change_no_logit(model_type: str, tmp_path: Path) -> None:
    source = tiny(model_type, tmp_path / "source", tie_word_embeddings=False)
    family, before = FAMILIES[model_type], neutral(source)
    target = folded(source, tmp_path / "folded")
    after, expected = neutral(target), logits(source)
    torch.testing.assert_close(
        logits(target), expected, rtol=1e-4, atol=2e-5 * expected.abs().max()
    )
    assert not any(before.values())
    final = after.pop(family.final_norm)
    assert all(after.values()), after
    # no head here has a bias that could take up that of a LayerNorm
    assert final != family.norms_have_biases


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_in_front_of_a_tied_head_the_norm_stays(model_type: str, tmp_path: Path) -> None:
    source = tiny(model_type, tmp_path / "source", tie_word_embeddings=True)
    target = folded(source, tmp_path / "folded")
    torch.testing.assert_close(logits(target), logits(source), rtol=1e-4, atol=1e-4)
    after = neutral(target)
    assert not after.pop(FAMILIES[model_type].final_norm)
    assert all(after.values())
    embedding = f"{FAMILIES[model_type].embedding}.weight"
    same = [Checkpoint.open(folder).read([embedding])[embedding] for folder in (source, target)]
    assert torch.equal(*same)


def test_each_value_of_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    source = tiny("llama", tmp_path / "source", torch.bfloat16, tie_word_embeddings=False)
    target = folded(source, tmp_path / "folded")
    name, norm = (
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
    )
    given = Checkpoint.open(source).read([name, norm])
    made = Checkpoint.open(target).read([name])[name]
    exact = given[name].double() * given[norm].double()
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, exact.bfloat16())


@pytest.mark.parametrize(
    ("model_type", "settings", "said"),
    [
        ("bert", {}, "no norm of it is known to be read by matrices"),
        ("opt", {"do_layer_norm_before": False}, "no norm of it is known to be read by matrices"),
        ("gptj", {}, "the bias of ln_1 has no place in attention.q"),
        ("gpt_neo", {}, "the bias of ln_1 has no place in attention.q"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_its_config(
    model_type: str, settings: dict, said: str
) -> None:
    with pytest.raises(TensorpressError) as refused:
        FOLD.planned(architecture_of({"model_type": model_type, **settings}, "test"), "models.m")
    assert said in str(refused.value)
    assert str(refused.value).startswith("models.m: fold_norms is not allowed for")


def test_a_matrix_without_a_bias_is_refused_by_its_files(tmp_path: Path) -> None:
    source = tiny("gpt_neox", tmp_path / "source", attention_bias=False)
    with pytest.raises(
        TensorpressError, match=r"has a bias and .*query_key_value.weight .* has none"
    ):
        folded(source, tmp_path / "folded")


def test_a_transform_is_a_stage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tiny_llama(), tmp_path / "inputs/tiny")
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    monkeypatch.chdir(tmp_path)
    params = tiny_params()
    plain = live_paths(Plan(parse(params)))
    params["models"]["tiny"]["transform"] = "fold_norms"
    once = Plan(parse(params))
    params["models"]["tiny"]["transform"] = ["fold_norms", "fold_norms"]
    twice = live_paths(Plan(parse(params)))
    live = live_paths(once)
    assert plain["fetch"] == live["fetch"] == twice["fetch"]
    assert (plain["transform"], len(live["transform"])) == ([], 1)
    assert set(live["transform"]) < set(twice["transform"])
    assert not set(plain["calibrate"]) & set(live["calibrate"])
    (made,) = once.transformed.values()
    assert once.models["tiny"] is made
    assert made.checkpoint.parent == Path("results/transform")
    params["models"]["tiny"]["transform"] = "unfold"
    with pytest.raises(TensorpressError, match=r"models.tiny.*transform.*'unfold'.*fold_norms"):
        parse(params)


def test_the_workflow_runs_on_a_folded_model(tmp_path: Path) -> None:
    """Which is as good as the plain one: the two lie beside each other in one study."""
    params = tiny_params()
    params["models"]["folded"] = {**params["models"]["tiny"], "transform": "fold_norms"}
    for recipe in params["recipes"].values():
        recipe["models"] = ["tiny", "folded"]
    workspace = Workspace.create(tmp_path, params)
    source = tiny_llama()
    for name, parameter in source.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    save_tiny(source, tmp_path / "inputs/tiny")
    workspace.snakemake()
    assert workspace.nothing_to_do()
    assert workspace.ran()["transform"] == 1
    done = workspace.run("tensorpress", "query", "perplexities", "--json")
    found = {(row["model"], row["recipe"]): row["perplexity"] for row in json.loads(done.stdout)}
    assert found["folded", "baseline"] == pytest.approx(found["tiny", "baseline"], rel=1e-5)
    # whitened SVD sees W S of the inputs' moments S, which folding does not change
    assert found["folded", "svd"] == pytest.approx(found["tiny", "svd"], rel=1e-3)
