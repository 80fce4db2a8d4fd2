"""What models are asked: masked tokens of a tiny BERT against closed forms, and who may ask."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.stages import calibrated, placed
from support.workspace import (
    Workspace,
    masked_tokenizer,
    save_tiny,
    tiny_bert,
    tiny_params,
    tiny_text,
    tiny_tokenizer,
)
from torch.nn.functional import cross_entropy

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.moments import save_moments
from tensorpress.config.params import parse
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import perplexity as task
from tensorpress.files.paths import moments
from tensorpress.methods.registry import load
from tensorpress.objectives import registry
from tensorpress.objectives.masked_lm import STRIDE
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.sources.inputs import LocalModel
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer
from tensorpress.stages.fetching import fetch_model

MASKED = registry.load("masked_lm")
WINDOW = 18
"""CLS, SEP, and sixteen tokens of text: two times seven are predicted, two are only read."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fetched tiny BERT, its files as the hub's: old names of norms, a head of other training."""
    source = tmp_path_factory.mktemp("bert")
    file = save_tiny(tiny_bert(), source / "source", masked_tokenizer()) / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): t
        for name, t in load_file(file).items()
    }
    save_file({**old, "bert.pooler.dense.bias": torch.zeros(32)}, file, {"format": "pt"})
    target = source / "fetched"
    fetch_model("b", LocalModel(source="local", path=str(source / "source")), target, CPU)
    return target


def rows() -> torch.Tensor:
    return MASKED.rows(masked_tokenizer(), tiny_text(), WINDOW, 3)


def test_rows_are_text_between_cls_and_sep_and_its_masks() -> None:
    tokenizer = masked_tokenizer()
    made = rows()
    assert made.shape == (3, 2, WINDOW)
    text = tokenizer(tiny_text(), add_special_tokens=False)["input_ids"][: 3 * (WINDOW - 2)]
    assert MASKED.ids(made)[:, MASKED.text(WINDOW)].flatten().tolist() == text
    assert set(made[:, :, 0].flatten().tolist()) == {tokenizer.cls_token_id}
    assert set(made[:, :, -1].flatten().tolist()) == {tokenizer.sep_token_id}
    assert set(made[:, 1, 1:-1].flatten().tolist()) == {tokenizer.mask_token_id}


def test_losses_are_those_of_each_token_behind_its_mask(bert: Path) -> None:
    model, made = load_model(bert, CPU), rows()
    found = MASKED.losses(model, made, chunk=5)
    assert found.shape == (3, 14)
    mask = masked_tokenizer().mask_token_id
    for position in range(1, 15):
        ids = made[:, 0].clone()
        together = [p for p in range(1, 15) if (p - position) % STRIDE == 0]
        ids[:, together] = mask
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, position]
        expected = cross_entropy(logits, made[:, 0, position], reduction="none")
        torch.testing.assert_close(found[:, position - 1], expected, rtol=1e-4, atol=1e-5)


def test_a_uniform_model_has_the_pseudo_perplexity_of_the_vocabulary(
    bert: Path, tmp_path: Path
) -> None:
    """And that of one compressed by TT is measured by the same protocol, end to end."""
    model = tiny_bert()
    with torch.no_grad():
        for parameter in model.cls.parameters():
            parameter.zero_()
    uniform = save_tiny(model, tmp_path / "uniform", masked_tokenizer())
    corpus = tmp_path / "text.txt"
    corpus.write_text(tiny_text())
    spec = Perplexity(kind="perplexity", corpus="text", window=WINDOW, max_windows=4, batch=3)

    def measured(folder: Path) -> dict[str, float]:
        made = task.evaluate(EvaluationJob(folder, None, {"text": corpus}, CPU), spec)
        assert {MASKED.question in row.version for row in made} == {True}
        return {row.metric: row.value for row in made}

    assert measured(uniform)["pseudo_perplexity"] == pytest.approx(303, rel=1e-4)

    save_moments(calibrated(bert, rows(), 2), MASKED.ids(rows()).numel(), tmp_path / "moments")
    placements = []
    for method, settings, group in (
        ("svd", {"rank": 8, "whiten": "input"}, "ffn"),
        ("tt", {"order": 3, "rank": 6}, "attention"),
    ):
        made_by = load(method).Spec(method=method, **settings)
        measures = moments(tmp_path / "moments", 1) if method == "svd" else None
        factors = decompose_layer(bert, made_by, group, 1, measures, CPU)[0]
        file = tmp_path / f"{method}.safetensors"
        save_factors(factors, file)
        modules = tuple(Checkpoint.open(bert).architecture.shape(1).group(group))
        placements.append(placed(1, modules, made_by, file))
    assemble(bert, placements, "float32", tmp_path / "run")
    dense, compressed = measured(bert), measured(tmp_path / "run")
    assert compressed.keys() == {"pseudo_perplexity", "bits_per_byte"}
    assert compressed != dense
    assert abs(math.log(compressed["pseudo_perplexity"] / dense["pseudo_perplexity"])) < 1


def test_a_tokenizer_without_a_mask_is_refused_at_the_fetch(tmp_path: Path) -> None:
    save_tiny(tiny_bert(), tmp_path / "source", tiny_tokenizer())
    spec = LocalModel(source="local", path=str(tmp_path / "source"))
    with pytest.raises(TensorpressError, match="a tokenizer without mask_token"):
        fetch_model("b", spec, tmp_path / "fetched", CPU)


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, **tasks: dict) -> dict:
    """Params of a tiny BERT in ``folder``, with tasks for its uncompressed model."""
    save_tiny(tiny_bert(), folder / "inputs/bert", masked_tokenizer())
    (folder / "inputs/text.txt").write_text(tiny_text())
    monkeypatch.chdir(folder)
    params = tiny_params()
    params["models"] = {
        "tiny": {"source": "local", "path": "inputs/bert", "baseline_tasks": [*tasks]}
    }
    params["tasks"] |= tasks
    return params


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "generation"}, "task 'asked' (kind generation) is not allowed for masked_lm"),
        (
            {"kind": "perplexity", "corpus": "text", "window": 8},
            "tasks.asked.window: 8 is not allowed; allowed: from 9",
        ),
        ({"kind": "perplexity", "corpus": "text", "bos": True, "window": 32}, "bos: false"),
    ],
)
def test_what_a_masked_model_is_not_asked_is_refused_while_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, said: str
) -> None:
    (tmp_path / "inputs").mkdir()
    params = study(tmp_path, monkeypatch, asked=settings)
    with pytest.raises(TensorpressError) as refused:
        Plan(parse(params))
    assert said in str(refused.value)


def test_a_calibration_that_begins_with_bos_is_refused_while_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inputs").mkdir()
    params = study(tmp_path, monkeypatch)
    params["calibration"]["bos"] = True
    params["methods"]["svd"]["whiten"] = "input"
    with pytest.raises(TensorpressError, match=r"calibration\.window: .*bos: false"):
        Plan(parse(params))


def test_the_workflow_runs_on_a_tiny_bert(tmp_path: Path) -> None:
    """Fetch, calibrate, decompose, assemble, recover, evaluate, report."""
    params = tiny_params()
    params["models"]["tiny"]["path"] = "inputs/bert"
    params["recipes"]["svd"]["steps"].append({"modules": ["attention"], "method": "tt"})
    params["methods"]["tt"] = {"method": "tt", "order": 3, "rank": 6}
    params["corpora"]["train"] = {"source": "file", "path": "inputs/train.txt"}
    lora = {
        "train": "adapters",
        "rank": 2,
        "steps": 1,
        "batch": 2,
        "accumulation": 1,
        "window": 18,
        "corpus": "train",
    }
    params["recipes"]["lora"] = {**params["recipes"]["svd"], "recover": lora}
    workspace = Workspace.create(tmp_path, params)
    save_tiny(tiny_bert(), tmp_path / "inputs/bert", masked_tokenizer())
    (tmp_path / "inputs/train.txt").write_text("To be trained on. " * 200)
    workspace.snakemake()
    done = workspace.run("tensorpress", "query", "perplexities", "--json")
    found = {row["recipe"]: row for row in json.loads(done.stdout)}
    assert found.keys() == {"baseline", "svd", "drop", "lora"}
    assert found["baseline"]["nats_lost"] == 0
    assert found["lora"]["perplexity"] != found["svd"]["perplexity"]
    assert all(1 < row["perplexity"] < 1000 for row in found.values())
