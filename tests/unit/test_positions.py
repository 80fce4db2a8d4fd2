"""No sequence is longer than a model's positions: known while planning, or before it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.items import write
from support.stages import job_of
from support.untrusted import update
from support.workspace import tiny_params, tiny_text, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.config.params import parse
from tensorpress.config.tasks.generation import Spec as Generation
from tensorpress.config.tasks.hotpotqa import Spec as HotpotQA
from tensorpress.config.tasks.restoration import Spec as Restoration
from tensorpress.config.tasks.super_weights import Spec as SuperWeights
from tensorpress.config.tasks.zero_shot import Spec as ZeroShot
from tensorpress.errors import TensorpressError
from tensorpress.evaluation import job as evaluation_job
from tensorpress.evaluation.tasks import (
    generation,
    hotpotqa,
    restoration,
    super_weights,
    zero_shot,
)
from tensorpress.planning.plan import Plan

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
    "word_embed_proj_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = [("gpt2", GPT, "n_positions"), ("gptj", {**GPT, "rotary_dim": 4}, "n_positions"),
            ("opt", OPT, "max_position_embeddings")]  # fmt: skip
LONG = tiny_text()[:600]


def study(task: dict) -> dict:
    """The tiny study whose one recipe has one task, and needs no calibration."""
    params = tiny_params()
    params["tasks"] = {"task": task}
    params["recipes"] = {"drop": {**params["recipes"]["drop"], "tasks": ["task"]}}
    params["reports"] = {}
    return params


def refusal(params: dict) -> str:
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(params))
    return str(caught.value)


@pytest.mark.parametrize(("model_type", "sizes", "key"), FAMILIES, ids=lambda value: str(value)[:5])
def test_windows_are_checked_by_the_family_s_own_key(
    inputs: Path, model_type: str, sizes: dict, key: str
) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=300, **sizes)
    shutil.rmtree(inputs / "inputs/tiny")
    AutoModelForCausalLM.from_config(config).save_pretrained(inputs / "inputs/tiny")
    tiny_tokenizer().save_pretrained(inputs / "inputs/tiny")
    task = {"kind": "perplexity", "corpus": "text", "window": 64}
    Plan(parse(study(task)))
    assert refusal(study(task | {"window": 65})) == (
        f"tasks.task.window: 65 is not allowed; allowed: up to 64, {key} of model 'tiny'"
    )


TASKS = [
    ({"kind": "geometry", "corpus": "text"}, "window", "window"),
    ({"kind": "generation"}, "new_tokens", "new_tokens"),
    (
        {"kind": "speed", "new_tokens": 1},
        "prompt_tokens",
        "prompt_tokens + new_tokens",
    ),
]


@pytest.mark.parametrize(("task", "setting", "named"), TASKS, ids=lambda value: str(value)[:20])
def test_tasks_that_run_the_model(inputs: Path, task: dict, setting: str, named: str) -> None:
    most = 128 - (task["kind"] == "speed")
    Plan(parse(study(task | {setting: most})))
    assert f"tasks.task.{named}: 129 is not allowed; allowed: up to 128" in refusal(
        study(task | {setting: most + 1})
    )


def test_what_runs_no_model_has_no_limit(inputs: Path) -> None:
    task = {"kind": "ngram", "training": "text", "corpus": "text", "window": 500}
    params = study(task)
    params["calibration"]["window"] = 500  # nothing reads it
    Plan(parse(params))
    params = tiny_params()
    params["calibration"]["window"] = 500
    assert "calibration.window: 500 is not allowed; allowed: up to 128" in refusal(params)


def test_a_model_without_a_limit(inputs: Path) -> None:
    update(inputs / "inputs/tiny/config.json", max_position_embeddings=None)
    Plan(parse(study({"kind": "perplexity", "corpus": "text", "window": 500})))


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(evaluation_job, "load_model", refuse)


@pytest.mark.usefixtures("unloaded")
def test_prompts_are_measured_before_the_model_is_loaded(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(llama_directory, llama_directory)
    with pytest.raises(
        TensorpressError, match=r"so that 120 new ones fit into 128 positions \(max"
    ):
        generation.evaluate(job, Generation(kind="generation", new_tokens=120))
    path = write(tmp_path / "question.jsonl", {"question": LONG, "answer": "no"})
    with pytest.raises(TensorpressError, match="allowed: up to 113, so that 15 new ones fit into"):
        hotpotqa.evaluate(job, HotpotQA(kind="hotpotqa", path=str(path)))
    path = write(tmp_path / "answer.jsonl", {"question": "Who?", "answer": LONG})
    with pytest.raises(TensorpressError, match="allowed: up to 128 in 128 positions"):
        hotpotqa.evaluate(job, HotpotQA(kind="hotpotqa", path=str(path)))
    with pytest.raises(TensorpressError, match="allowed: up to 128 in 128 positions"):
        super_weights.evaluate(job, SuperWeights(kind="super_weights", prompt=LONG))
    monkeypatch.setattr(restoration, "_replaced", lambda job: [])
    with pytest.raises(TensorpressError, match="allowed: up to 128 in 128 positions"):
        restoration.evaluate(job, Restoration(kind="restoration", prompt=LONG))


def test_what_lm_eval_cuts_is_said(tmp_path: Path, llama_directory: Path) -> None:
    """Both choices of one item are too long, of the other none is."""
    items = [
        {"query": query, "choices": ["a", "b"], "gold": 0}
        for query in ("Question: Who?\n", f"Question: {LONG}\n")
    ]
    path = write(tmp_path / "items.jsonl", *items)
    job = job_of(llama_directory)
    zero_shot.evaluate(job, ZeroShot(kind="zero_shot", task="piqa", path=str(path)))
    assert job.notes == [
        "piqa: 2 requests are longer than the 128 positions of the model, lm-eval left out their "
        "beginning"
    ]


def test_an_answer_longer_than_the_positions(tmp_path: Path, llama_directory: Path) -> None:
    item = {"query": "Question: Who?\n", "choices": ["a", LONG], "gold": 0}
    path = write(tmp_path / "items.jsonl", item, item)
    with pytest.raises(TensorpressError, match=r"the answer ' .* tokens; allowed: up to 128, the"):
        zero_shot.evaluate(
            job_of(llama_directory), ZeroShot(kind="zero_shot", task="piqa", path=str(path))
        )
