"""SliceGPT with one rotation: what it leaves alone, what it refuses, and the study around it."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import SIZES
from support.transforms import logits, sliced, tiny
from support.workspace import Workspace, save_tiny, tiny_llama, tiny_params

from tensorpress.architectures.families.table import FAMILIES, architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.rows import ResultRow, read_rows
from tensorpress.commands.advise import _study
from tensorpress.commands.plan import study_sizes
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.transforms.slicegpt import Spec

NARROWED = sorted(name for name, family in FAMILIES.items() if family.narrows)


def rows() -> torch.Tensor:
    return torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", NARROWED)
def test_nothing_sliced_changes_no_logit(model_type: str, tied: bool, tmp_path: Path) -> None:
    source = tiny(model_type, tmp_path / "source", tie_word_embeddings=tied)
    target = sliced(source, tmp_path / "whole", 32, rows())
    expected = logits(source)
    torch.testing.assert_close(
        logits(target), expected, rtol=1e-4, atol=2e-5 * expected.abs().max()
    )
    assert not Checkpoint.open(target).architecture.tied


@pytest.mark.parametrize("model_type", ["llama", "qwen2_moe", "gpt_oss"])
def test_a_stream_of_few_directions_loses_none(model_type: str, tmp_path: Path) -> None:
    """All that writes does so in a space of 16 dimensions: at that width the model is the same."""
    source = tiny(model_type, tmp_path / "source", tie_word_embeddings=False)
    span, _ = torch.linalg.qr(torch.randn(32, 16))
    confined(source, span @ span.mT)
    target = sliced(source, tmp_path / "half", 16, rows())
    expected = logits(source)
    torch.testing.assert_close(
        logits(target), expected, rtol=1e-3, atol=1e-4 * expected.abs().max()
    )
    narrower = logits(sliced(source, tmp_path / "less", 12, rows()))
    assert (narrower - expected).abs().max() > 1e-2 * expected.abs().max()


def confined(folder: Path, projector: torch.Tensor) -> None:
    """Project what every writer of a checkpoint adds to the stream, by names as they are here."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    inputs_first = "mlp.router.weight" in "".join(tensors)  # GPT-OSS
    for name, tensor in tensors.items():
        if "embed_tokens" in name or (name.endswith("experts.down_proj") and inputs_first):
            tensors[name] = tensor @ projector
        elif "o_proj" in name or "down_proj" in name:
            stacked = name.endswith("down_proj_bias")
            tensors[name] = tensor @ projector if stacked else projector @ tensor
    save_file({n: t.contiguous() for n, t in tensors.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("model_type", "settings", "said"),
    [
        ("gemma2", {}, "norms stand between its blocks and the stream"),
        ("gemma3_text", {}, "norms stand between its blocks and the stream"),
        ("gpt2", {}, "its LayerNorms subtract a mean over the stream"),
        ("gpt_neox", {}, "its LayerNorms subtract a mean over the stream"),
        ("opt", {"do_layer_norm_before": False}, "its LayerNorms subtract a mean"),
        ("bert", {}, "no norm of it is known to be read by matrices alone"),
        ("olmoe", {}, "its class makes other widths of hidden_size"),
    ],
)
def test_what_cannot_be_turned_is_refused_by_its_config(
    model_type: str, settings: dict, said: str
) -> None:
    config = {"model_type": model_type, "vocab_size": 300, **SIZES[model_type], **settings}
    with pytest.raises(TensorpressError, match=said) as refused:
        Spec(transform="slicegpt", width=16).planned(architecture_of(config, "test"), "models.m")
    assert str(refused.value).startswith("models.m: slicegpt is not allowed for this")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("width", [18, 36])
def test_widths_that_are_refused(width: int) -> None:
    config = {"model_type": "llama", "vocab_size": 300, **SIZES["llama"]}
    with pytest.raises(TensorpressError) as refused:
        Spec(transform="slicegpt", width=width).planned(architecture_of(config, "test"), "models.m")
    assert str(refused.value) == (
        f"models.m: width: {width} is not allowed; allowed: multiples of 4, the heads, up to 32"
    )


def derived_params(**settings) -> dict:
    params = tiny_params()
    params["models"]["narrow"] = {
        "source": "derived",
        "of": "tiny",
        "transform": {"transform": "slicegpt", "width": 24, **settings},
    }
    for recipe in params["recipes"].values():
        recipe["models"] = ["tiny", "narrow"]
    return params


def test_a_derived_model_is_planned_without_weights(inputs: Path) -> None:
    plan = Plan(parse(derived_params()))
    made = plan.models["narrow"]
    fetched, sliced_one = made.lineage
    assert fetched is not made
    assert fetched.id == plan.models["tiny"].id  # fetched once for both
    assert made.architecture.shape(0).hidden_size == 24
    assert made.architecture.shape(0).head_dim == 8
    live = live_paths(plan)
    assert len(live["fetch"]) == 2
    assert sorted(Path(each).suffix for each in live["transform"]) == ["", ".safetensors"]
    twice = derived_params()
    twice["models"]["narrower"] = {
        **twice["models"]["narrow"],
        "transform": {"transform": "slicegpt", "width": 16},
    }
    for recipe in twice["recipes"].values():
        recipe["models"].append("narrower")
    both = live_paths(Plan(parse(twice)))["transform"]
    assert len(both) == 3  # moments are taken once for both widths
    assert set(live["transform"]) < set(both)
    assert pickle.loads(pickle.dumps(sliced_one)) == sliced_one


def test_advice_on_a_derived_model_fetches_what_it_is_made_of(inputs: Path) -> None:
    study = _study("narrow", parse(derived_params()), 0.1, False)
    assert set(study.models) == {"tiny", "narrow"}
    (advice,) = Plan(study).advices.values()
    assert advice.options.calibration.model.architecture.shape(0).hidden_size == 24


def test_a_derived_model_is_a_run_of_the_one_it_is_made_of() -> None:
    params = derived_params()
    params["recipes"]["narrow"] = params["recipes"]["svd"]
    with pytest.raises(TensorpressError, match=r"models: 'narrow' is not allowed; allowed: a name"):
        parse(params)
    params = derived_params()
    params["reports"] = {"v": {"notebook": "verdict", "model": "narrow", "task": "heldout"}}
    with pytest.raises(TensorpressError, match=r"reports.v.model: 'narrow'.*allowed: tiny, whose"):
        parse(params)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"of": "nobody"}, "models.narrow.of: 'nobody' is not allowed; allowed: a name of models"),
        ({"of": "narrow"}, "models.narrow.of: 'narrow' is not allowed; allowed: a model that is n"),
        ({"transform": []}, "models.narrow.transform"),
        ({"transform": {"transform": "slicegpt"}}, "models.narrow.*width"),
        ({"transform": {"transform": "slicegpt", "width": 0}}, "models.narrow.*width: 0"),
        ({"transform": "sliceg"}, "models.narrow.*'sliceg'.*fold_norms, slicegpt"),
    ],
)
def test_a_derived_model_that_is_refused(changed: dict, said: str) -> None:
    params = derived_params()
    params["models"]["narrow"] |= changed
    with pytest.raises(TensorpressError, match=said):
        parse(params)


def test_the_workflow_runs_on_a_narrower_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.create(tmp_path, derived_params())
    save_tiny(tiny_llama(), tmp_path / "inputs/tiny")
    workspace.snakemake()
    assert workspace.nothing_to_do()
    ran = workspace.ran()
    assert (ran["fetch_model"], ran["stream"], ran["transform"]) == (1, 1, 1)
    results = read_rows(sorted(Path("results/aggregate").glob("*/results.parquet")), ResultRow)
    found = {(row.model, row.recipe): row for row in results if row.metric == "perplexity"}
    plain = {"baseline", "svd", "drop"}
    assert set(found) == {("tiny", r) for r in (*plain, "narrow", "narrow/svd", "narrow/drop")}
    whole, narrow = found["tiny", "baseline"], found["tiny", "narrow"]
    assert whole.bits_saved_with_embeddings_percent == 0
    # all but the widths of heads and of the FFN shrinks with the stream
    assert narrow.bits_saved_with_embeddings_percent == pytest.approx(25.0)
    assert narrow.dense_bits == whole.dense_bits
    assert narrow.value > whole.value * 0.5
    assert (narrow.methods, narrow.approach, narrow.control) == ("slicegpt", "pruning", None)
    assert narrow.module_groups == "attention+ffn+embedding"
    factored = found["tiny", "narrow/svd"]
    assert factored.stored_bits < narrow.stored_bits
    assert (factored.methods, factored.approach) == ("slicegpt+svd-whitened", "mixture")
    done = workspace.run("tensorpress", "query", "frontier", "--json")
    points = {row["recipe"]: row for row in json.loads(done.stdout)}
    lost = math.log(narrow.value / whole.value)
    assert points["narrow"]["nats_lost"] == pytest.approx(lost)
    assert points["narrow"]["nats_lost_half_width"] is not None
    (page,) = Path("results/site").glob("study-*/index.html")
    assert "narrow/svd" in page.read_text()
    (size,) = (each for each in study_sizes(parse(derived_params())) if each.recipe == "baseline")
    assert size.saved.stored_bits == narrow.stored_bits
    assert size.saved.with_embeddings_percent == narrow.bits_saved_with_embeddings_percent
    assert size.flops_per_token < size.dense_flops_per_token
