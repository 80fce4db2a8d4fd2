"""Zero-shot tasks: lm-eval's own prompts over local items, and accuracies by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import pytest
from lm_eval.tasks._yaml_loader import load_yaml
from support.items import COMPACT, REQUESTS, STANDARD_FORM, log_probability, write
from support.stages import job_of
from support.workspace import tiny_text

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.config.tasks.cloze import Spec as Cloze
from tensorpress.config.tasks.hotpotqa import Spec as HotpotQA
from tensorpress.config.tasks.last_word import Spec as LastWord
from tensorpress.config.tasks.zero_shot import Spec as ZeroShot
from tensorpress.errors import TensorpressError
from tensorpress.evaluation import job as evaluation_job
from tensorpress.evaluation.harness import TASKS, standard_task
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import cloze, hotpotqa, last_word, zero_shot
from tensorpress.running.oom import CPU
from tensorpress.sources.local_tasks import STANDARD, standard_items


def test_the_table_of_tasks_is_lm_eval_s() -> None:
    assert set(STANDARD) == set(get_args(ZeroShot.model_fields["task"].annotation))
    for name, standard in STANDARD.items():
        config = load_yaml(TASKS / standard.yaml)
        assert config["task"] == name
        dataset = (standard.dataset.path, standard.dataset.name)
        assert (config["dataset_path"], config["dataset_name"]) == dataset


@pytest.mark.parametrize("form", [COMPACT, STANDARD_FORM], ids=["compact", "standard"])
@pytest.mark.parametrize("name", sorted(STANDARD))
def test_local_items_get_lm_eval_s_prompts(tmp_path: Path, name: str, form: dict) -> None:
    items = standard_items(name, write(tmp_path / "items.jsonl", form[name]), None, "path")
    task = standard_task(name, items)
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests()
    expected, gold = REQUESTS[name]
    assert [instance.args for instance in task.instances] == expected
    document = task.instances[0].doc
    scores = [(float(choice == gold), True) for choice in range(len(expected))]
    assert task.process_results(document, scores)["acc"] == 1.0
    assert not task.process_results(document, [(-s, g) for s, g in scores])["acc"]


@pytest.mark.parametrize("name", ["piqa", "winogrande"])
def test_accuracy_is_that_of_choices_computed_by_hand(
    tmp_path: Path, llama_directory: Path, name: str
) -> None:
    words = tiny_text().split()
    items = []
    for place in range(0, 240, 20):
        first, second = (" ".join(words[place + i : place + i + 4]) for i in (8, 12))
        context = " ".join(words[place : place + 8])
        compact = {
            "piqa": {"query": f"Question: {context}\n", "choices": [first, second]},
            "winogrande": {"context_options": [first, second], "continuation": context},
        }
        items.append({**compact[name], "gold": place // 20 % 2})
    path = write(tmp_path / "items.jsonl", *items)
    spec = ZeroShot(kind="zero_shot", task=name, path=str(path), items=10)
    rows = {row.metric: row for row in zero_shot.evaluate(job_of(llama_directory), spec)}
    right, right_per_byte = [], []
    for item in items[:10]:
        if name == "piqa":
            question = item["query"].strip()
            pairs = [(f"{question}\nAnswer:", f" {choice}") for choice in item["choices"]]
        else:
            pairs = [(option, f" {item['continuation']}") for option in item["context_options"]]
        nats = [log_probability(llama_directory, *pair) for pair in pairs]
        right.append(nats.index(max(nats)) == item["gold"])
        per_byte = [n / (len(pair[1].encode()) - 1) for n, pair in zip(nats, pairs, strict=True)]
        right_per_byte.append(per_byte.index(max(per_byte)) == item["gold"])
    share = sum(right) / 10
    assert 0 < share < 1
    assert rows["acc"].value == pytest.approx(share)
    assert rows["acc"].stderr == pytest.approx(math.sqrt(share * (1 - share) / 9))
    assert rows["acc"].samples == 10
    assert rows["acc"].version == "lm-eval 0.4.13, task version 1.0"
    if name == "piqa":
        assert rows["acc_norm"].value == pytest.approx(sum(right_per_byte) / 10)


@pytest.fixture
def bare(copy: Path) -> Path:
    """A tiny Llama whose tokenizer has no special token."""
    config = json.loads((copy / "tokenizer_config.json").read_text())
    tokens = {key: value for key, value in config.items() if not key.endswith("_token")}
    (copy / "tokenizer_config.json").write_text(json.dumps(tokens))
    tokenizer = load_tokenizer(copy)
    assert tokenizer.bos_token_id is tokenizer.eos_token_id is None
    return copy


def test_a_tokenizer_without_bos_and_eos(tmp_path: Path, llama_directory: Path, bare: Path) -> None:
    """Where no context is empty nothing depends on them."""
    words = tiny_text().split()
    text = tmp_path / "text.txt"
    text.write_text(tiny_text(), encoding="utf-8")
    items = [{**COMPACT["piqa"], "choices": words[i : i + 2]} for i in range(8)]
    path = write(tmp_path / "items.jsonl", *items)
    question = write(tmp_path / "questions.jsonl", {"question": "Who?", "answer": "Ann"})
    corpus = {"corpus": "t", "items": 6, "context_words": 8}
    tasks = [
        (zero_shot, ZeroShot(kind="zero_shot", task="piqa", path=str(path))),
        (cloze, Cloze(kind="cloze", answer_words=4, **corpus)),
        (last_word, LastWord(kind="last_word", **corpus)),
        (hotpotqa, HotpotQA(kind="hotpotqa", path=str(question))),
    ]
    for task, spec in tasks:
        found, expected = (
            task.evaluate(EvaluationJob(folder, None, {"text": text}, CPU), spec)
            for folder in (bare, llama_directory)
        )
        assert found == expected


def test_an_empty_context_needs_bos_or_eos(
    tmp_path: Path, llama_directory: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [COMPACT["openbookqa"], {**COMPACT["openbookqa"], "query": ""}]
    path = write(tmp_path / "items.jsonl", *items)
    spec = ZeroShot(kind="zero_shot", task="openbookqa", path=str(path))
    assert zero_shot.evaluate(job_of(llama_directory), spec)
    zero_shot.evaluate(job_of(bare), spec.model_copy(update={"items": 1}))
    monkeypatch.setattr(evaluation_job, "load_model", None)
    with pytest.raises(TensorpressError, match="openbookqa: an empty context before ' hot' is not"):
        zero_shot.evaluate(job_of(bare), spec)


def test_protocol_is_of_the_items(tmp_path: Path, llama_directory: Path) -> None:
    found = []
    for number, gold in enumerate((0, 1)):
        items = [{**COMPACT["piqa"], "gold": gold}, COMPACT["piqa"], COMPACT["piqa"]]
        path = write(tmp_path / f"{number}.jsonl", *items)
        spec = ZeroShot(kind="zero_shot", task="piqa", path=str(path), items=2)
        found += [row.protocol for row in zero_shot.evaluate(job_of(llama_directory), spec)]
    assert found[0] == found[1] != found[2] == found[3]
