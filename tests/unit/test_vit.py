"""A vision transformer: its images, its losses against closed forms, and what it may not meet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.families import SIZES
from support.stages import calibrated, placed
from support.weights import planned, saved
from support.workspace import Workspace, tiny_params, tiny_text
from torch.nn.functional import cross_entropy
from transformers import ViTForImageClassification

from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model, load_reader
from tensorpress.checkpoints.moments import save_moments
from tensorpress.commands.init import init
from tensorpress.config.params import parse
from tensorpress.config.recovery import Adapters
from tensorpress.config.tasks.accuracy import Spec as Accuracy
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import accuracy, perplexity
from tensorpress.files.paths import moments
from tensorpress.methods.registry import load
from tensorpress.objectives import registry
from tensorpress.objectives.images import Scaling, written
from tensorpress.objectives.token_losses import Teacher
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.sources.digits import DEEPEST, digits
from tensorpress.sources.embedded.pictures import SETTINGS
from tensorpress.sources.inputs import LocalModel
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer
from tensorpress.stages.fetching import fetch_model
from tensorpress.stages.recovery import recover

ASKED = registry.load("image_classification")
WINDOW = 17
CONFIG = {"model_type": "vit", **SIZES["vit"]}
SCALING = Scaling.of(CONFIG, SETTINGS, "test")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fetched random one, of a checkpoint under the names that the hub's have."""
    folder = tmp_path_factory.mktemp("vit")
    source = saved("vit", folder / "source")
    spec = LocalModel(source="local", path=str(source))
    fetch_model("v", spec, folder / "fetched", CPU)
    return folder / "fetched"


def rows(count: int = 6) -> torch.Tensor:
    return ASKED.rows(SCALING, written(digits("train")), WINDOW, count)


def test_splits_are_all_digits_and_share_none() -> None:
    splits = [{json.dumps(image) for _, image in digits(split)} for split in ("train", "heldout")]
    assert [len(digits(split)) for split in ("train", "heldout")] == [1347, 450]
    assert not splits[0] & splits[1]
    assert {label for label, _ in digits("heldout")} == set(range(10))
    values = [value for _, image in digits("train") for row in image[0] for value in row]
    assert (min(values), max(values)) == (0, DEEPEST)


def test_rows_are_labels_and_scaled_pixels() -> None:
    made = rows()
    assert made.shape == (6, 65)
    (label, (first, *_)), *_ = digits("train")
    assert float(made[0, 0]) == label
    assert made[0, 1:9].tolist() == pytest.approx([2 * value / 16 - 1 for value in first[0]])
    settings = {"do_rescale": False, "do_normalize": True, "image_mean": [2], "image_std": [4]}
    other = Scaling.of(CONFIG, settings, "test").rows(written(digits("train")), 1)
    assert other[0, 1:9].tolist() == [(value - 2) / 4 for value in first[0]]


def test_a_fetched_one_is_the_model_of_the_files(vit: Path) -> None:
    theirs = ViTForImageClassification.from_pretrained(vit.parent / "source").eval()
    ours = load_model(vit, CPU)
    pixels = rows()[:, 1:].view(-1, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(theirs(pixel_values=pixels).logits, ours(pixel_values=pixels).logits)
    assert load_reader(vit) == SCALING


def test_losses_are_those_of_each_image_alone(vit: Path) -> None:
    model, made = load_model(vit, CPU), rows()
    found, right = ASKED.losses(model, made), ASKED.right(model, made)
    assert found.shape == right.shape == (6, 1)
    assert ASKED.answers(made) == 6
    for row, loss, hit in zip(made, found[:, 0], right[:, 0], strict=True):
        with torch.no_grad():
            logits = model(pixel_values=row[1:].view(1, 1, 8, 8)).logits
        torch.testing.assert_close(loss, cross_entropy(logits, row[:1].long()))
        assert bool(hit) == (int(logits.argmax()) == int(row[0]))


def test_what_is_backpropagated_is_the_sum_or_the_teachers(vit: Path) -> None:
    """A model that is its own teacher has nothing to learn of it."""
    model, made = load_model(vit, CPU), rows()
    model.requires_grad_(True)
    ASKED.losses(model, made, weight=0.5)
    found = model.classifier.bias.grad.clone()
    with torch.no_grad():
        logits = model(pixel_values=made[:, 1:].view(-1, 1, 8, 8)).logits
    labels = torch.nn.functional.one_hot(made[:, 0].long(), 10)
    torch.testing.assert_close(found, 0.5 * (logits.softmax(-1) - labels).sum(0))
    model.zero_grad()
    ASKED.losses(model, made, weight=1.0, teacher=Teacher(load_model(vit, CPU), 2.0, 1.0))
    torch.testing.assert_close(model.classifier.bias.grad, torch.zeros(10), atol=1e-5, rtol=0)


def measured(folder: Path, corpus: Path) -> dict[str, float]:
    job = EvaluationJob(folder, None, {"text": corpus}, CPU)
    shared = {"corpus": "text", "window": WINDOW, "max_windows": 40, "batch": 16}
    found = [
        *perplexity.evaluate(job, Perplexity(kind="perplexity", **shared)),
        *accuracy.evaluate(job, Accuracy(kind="accuracy", **shared)),
    ]
    assert {len(row.observations) for row in found} == {40}
    assert {row.stderr_samples for row in found} == {40}
    assert {ASKED.question in row.version for row in found} == {True}
    return {row.metric: row.value for row in found}


def test_from_calibration_to_measures(vit: Path, tmp_path: Path) -> None:
    """A head of zeros is as unsure as there are labels; factors of every group run and count."""
    corpus = tmp_path / "digits.txt"
    corpus.write_text(written(digits("heldout")))
    model = load_model(vit, CPU)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
    model.save_pretrained(tmp_path / "uniform", save_original_format=False)
    (tmp_path / "uniform/preprocessor_config.json").write_text(json.dumps(SETTINGS))
    zeros = sum(label == 0 for label, _ in digits("heldout")[:40])  # the first of equal logits
    assert measured(tmp_path / "uniform", corpus) == {
        "label_perplexity": pytest.approx(10), "accuracy": pytest.approx(zeros / 40),
    }  # fmt: skip

    save_moments(calibrated(vit, rows(), 2), 6 * WINDOW, tmp_path / "moments")
    placements = []
    for method, settings, group in (
        ("svd", {"rank": 8, "whiten": "both"}, "ffn"),
        ("heads", {"budget": {"saved": 0.5}}, "attention"),
    ):
        spec = load(method).Spec(method=method, **settings)
        known = moments(tmp_path / "moments", 1)
        factors = decompose_layer(vit, spec, group, 1, known, CPU)[0]
        file = tmp_path / f"{method}.safetensors"
        save_factors(factors, file)
        modules = tuple(Checkpoint.open(vit).architecture.shape(1).group(group))
        placements.append(placed(1, modules, spec, file))
    storage, _ = assemble(vit, placements, "float32", tmp_path / "run")
    assert storage.dense_bits == 32 * sum(p.numel() for p in load_model(vit, CPU).parameters())
    dense, compressed = measured(vit, corpus), measured(tmp_path / "run", corpus)
    assert compressed["label_perplexity"] != dense["label_perplexity"]
    assert abs(math.log(compressed["label_perplexity"] / dense["label_perplexity"])) < 1


def test_training_adapters_lowers_the_loss(vit: Path) -> None:
    model, made = load_model(vit, CPU), rows(32)
    with torch.no_grad():
        model.classifier.weight *= 30  # a random head hardly tells states apart
    before = float(ASKED.losses(model, made).mean())
    settings = {"train": "adapters", "rank": 8, "steps": 60, "batch": 32, "window": WINDOW}
    spec = Adapters(**settings, modules="all", learning_rate=0.05)
    architecture = Checkpoint.open(vit).architecture
    recover(model, architecture, made, spec, 0, CPU)
    assert float(ASKED.losses(model, made).mean()) < 0.9 * before


def test_plan_counts_what_is_stored(tmp_path: Path) -> None:
    """Projection, class token, positions, norms and head are counted beside the factors."""
    folder = saved("vit", tmp_path / "model")
    values = sum(p.numel() for p in ViTForImageClassification.from_pretrained(folder).parameters())
    dense, stored = planned(folder, "ffn", 3)
    assert dense == 32 * values
    assert dense - stored == 32 * 2 * (32 * 64 - 3 * (32 + 64))
    architecture = architecture_of({**CONFIG, "patch_size": 4}, "test")
    assert architecture.size("positions") == 5
    assert "embedding" not in architecture.modules


STUDY = tiny_params() | {
    "corpora": {
        "digits": {"source": "digits", "split": "train"},
        "others": {"source": "digits", "split": "heldout"},
        "text": {"source": "file", "path": "inputs/text.txt"},
    },
    "calibration": {"corpus": "digits", "tokens": 340, "window": WINDOW, "batch": 10},
    "tasks": {
        "heldout": {"kind": "perplexity", "corpus": "others", "window": WINDOW, "max_windows": 50}
    },
}


def changed(**sections: dict) -> dict:
    """``STUDY`` with settings of its sections changed."""
    return STUDY | {name: {**STUDY[name], **values} for name, values in sections.items()}


@pytest.mark.parametrize(
    ("sections", "config", "said"),
    [
        ({"calibration": {"window": 16}}, {}, "calibration.window: 16 is not allowed for model"),
        ({"calibration": {"corpus": "text"}}, {}, "calibration.corpus: 'text', of text, is not"),
        ({"calibration": {"bos": True}}, {}, "a BOS before each window is not allowed"),
        ({}, {"image_size": 16, "patch_size": 4}, "of 16 x 16 pixels and 1 channel and 10 classes"),
        ({}, {"num_channels": 3}, "image_mean: [0.5] is not allowed; allowed: a number for each"),
        ({}, {"num_labels": 9}, "and 9 classes; allowed: models of 8 x 8 pixels and 1 channel"),
        (
            {"tasks": {"heldout": {**STUDY["tasks"]["heldout"], "corpus": "text"}}},
            {},
            "tasks.heldout.corpus: 'text', of text, is not allowed for model 'tiny'",
        ),
        (
            {"tasks": {"other": {"kind": "geometry", "corpus": "others", "window": WINDOW}},
             "recipes": {"svd": {**STUDY["recipes"]["svd"], "tasks": ["other"]}}},
            {},
            "(kind geometry) is not allowed for image_classification; allowed: kinds for",
        ),
        (
            {"models": {"tiny": {**STUDY["models"]["tiny"],
                                 "transform": {"transform": "slicegpt", "width": 16}}}},
            {},
            "its LayerNorms subtract a mean over the stream, which does not turn with it",
        ),
        (
            {"recipes": {"svd": {**STUDY["recipes"]["svd"],
                                 "steps": [{"modules": ["embedding"], "method": "svd"}]}}},
            {},
            "recipes.svd.steps.0.modules: 'embedding' is not in model 'tiny'",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_while_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict, config: dict, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("vit", tmp_path / "inputs/tiny", **config)
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    with pytest.raises(TensorpressError) as refused:
        Plan(parse(changed(**sections)))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_tokens_is_not_given_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("llama", tmp_path / "inputs/tiny")
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    with pytest.raises(TensorpressError) as refused:
        Plan(parse(STUDY))
    assert "'others', of images, is not allowed for model 'tiny', a causal language" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "preprocessor_config.json is missing"),
        ({**SETTINGS, "image_mean": [0.5] * 3}, "image_mean: [0.5, 0.5, 0.5] is not allowed"),
        ({**SETTINGS, "image_std": [0]}, "image_std: [0] is not allowed"),
        ({**SETTINGS, "rescale_factor": "x"}, "rescale_factor: x is not allowed"),
    ],
)
def test_unknown_scales_of_pixels_are_refused(
    tmp_path: Path, settings: dict | None, said: str
) -> None:
    folder = saved("vit", tmp_path / "v")
    file = folder / "preprocessor_config.json"
    file.unlink() if settings is None else file.write_text(json.dumps(settings))
    with pytest.raises(TensorpressError) as refused:
        fetch_model("v", LocalModel(source="local", path=str(folder)), tmp_path / "f", CPU)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: "3 4", "line 2 of the corpus is no image"),
        (lambda line: line.replace('"label": 1', '"label": 10'), "line 2 .* has label 10"),
        (lambda line: line.replace("[[[", "[[[0], ["), "line 2 .* is an image of 9 x 1"),
    ],
)  # fmt: skip
def test_lines_that_are_no_images_are_refused(change: Callable[[str], str], said: str) -> None:
    first, second, *_ = written(digits("train")).splitlines()
    with pytest.raises(TensorpressError, match=said):
        ASKED.rows(SCALING, f"{first}\n{change(second)}", WINDOW)


def test_init_refuses_a_model_of_images(tmp_path: Path) -> None:
    with pytest.raises(TensorpressError, match=r"init: .* an image classifier of transformers"):
        init(str(saved("vit", tmp_path / "v")), None, 10)


def test_the_commands_of_a_study(tmp_path: Path) -> None:
    """A local checkpoint through all stages, planned to the bit and advised."""
    workspace = Workspace.create(tmp_path, STUDY)
    for path in (tmp_path / "inputs/tiny").iterdir():
        path.unlink()
    saved("vit", tmp_path / "inputs/tiny")
    workspace.commit("vit")
    workspace.run("tensorpress", "check")
    workspace.snakemake()
    (table,) = tmp_path.glob("results/aggregate/*/results.parquet")
    found = pd.read_parquet(table)
    assert set(found.metric) == {"label_perplexity"}
    assert set(found.objective) == {"image_classification"}
    assert set(found.samples) == {50}
    assert "ffn.up" in workspace.run("tensorpress", "advise", "tiny", "--saved", "0.2").stdout
    assert "svd" in workspace.run("tensorpress", "plan", "inputs/tiny").stdout
