"""Zero-shot tasks, HotpotQA and samples: lm-eval's own prompts over local files, and by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lm_eval.tasks._yaml_loader import load_yaml
from workspace import ROOT, tiny_params, tiny_text

from tensorpress.errors import TensorpressError
from tensorpress.evaluation.answers import contains, normalised, token_f1
from tensorpress.evaluation.continuations import greedy_continuations
from tensorpress.evaluation.harness import TASKS, standard_task
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.local_tasks import STANDARD, standard_items
from tensorpress.evaluation.specs import Generation, HotpotQA, ZeroShot
from tensorpress.evaluation.tasks import generation, hotpotqa, zero_shot
from tensorpress.loading import load_model, load_tokenizer
from tensorpress.params import parse
from tensorpress.plan import Plan
from tensorpress.reporting import run_query
from tensorpress.rows import EvalRow, ResultRow, write_rows

CPU = torch.device("cpu")

COMPACT: dict[str, dict[str, Any]] = {
    "arc_challenge": {"query": "Question: Why?", "choices": ["a", "b", "c"], "gold": 2},
    "arc_easy": {"query": "Question: Why?", "choices": ["a", "b", "c", "d", "e"], "gold": 4},
    "boolq": {
        "query": "Passage: One.\nTwo.\nQuestion: is it so?", "choices": ["no", "yes"], "gold": 1,
    },
    "hellaswag": {
        "query": "Baking: a man. He", "choices": ["sits.", "eats [step] bread."], "gold": 1,
    },
    "openbookqa": {"query": "The sun is", "choices": ["hot", "cold"], "gold": 0},
    "piqa": {"query": "Question: Sit down?\n", "choices": ["on it", "in it"], "gold": 1},
    "winogrande": {
        "context_options": ["Ann met Sue as Ann", "Ann met Sue as Sue"],
        "continuation": "was late_ly there.", "gold": 1,
    },
}  # fmt: skip

STANDARD_FORM: dict[str, dict[str, Any]] = {
    "arc_challenge": {
        "question": "Why?", "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]},
        "answerKey": "C",
    },
    "arc_easy": {
        "question": "Why?", "choices": {"text": list("abcde"), "label": list("ABCDE")},
        "answerKey": "E",
    },
    "boolq": {"passage": "One.\nTwo.", "question": "is it so", "label": 1},
    "hellaswag": {
        "activity_label": "Baking", "ctx_a": "a man.", "ctx_b": "he",
        "endings": ["sits.", "eats [step] bread."], "label": "1",
    },
    "openbookqa": {
        "question_stem": "The sun is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]},
        "answerKey": "A",
    },
    "piqa": {"goal": "Sit down?", "sol1": "on it", "sol2": "in it", "label": 1},
    "winogrande": {
        "sentence": "Ann met Sue as _ was late_ly there.", "option1": "Ann", "option2": "Sue",
        "answer": "2",
    },
}  # fmt: skip

REQUESTS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "arc_challenge": ([("Question: Why?\nAnswer:", f" {c}") for c in "abc"], 2),
    "arc_easy": ([("Question: Why?\nAnswer:", f" {c}") for c in "abcde"], 4),
    "boolq": ([("One.\nTwo.\nQuestion: is it so?\nAnswer:", f" {c}") for c in ("no", "yes")], 1),
    "hellaswag": ([("Baking: a man. He", f" {c}") for c in ("sits.", "eats bread.")], 1),
    "openbookqa": ([("The sun is", f" {c}") for c in ("hot", "cold")], 0),
    "piqa": ([("Question: Sit down?\nAnswer:", f" {c}") for c in ("on it", "in it")], 1),
    "winogrande": ([(f"Ann met Sue as {c}", " was late_ly there.") for c in ("Ann", "Sue")], 1),
}
"""What lm-eval asks about the item, written down by hand, and which answer is true."""


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def job_of(directory: Path) -> EvaluationJob:
    return EvaluationJob(directory, None, {}, CPU)


def log_probability(directory: Path, context: str, continuation: str) -> float:
    """Nats of the continuation's tokens, without lm-eval."""
    tokenizer = load_tokenizer(directory)
    whole, start = (
        tokenizer(context + continuation)["input_ids"],
        len(tokenizer(context)["input_ids"]),
    )
    with torch.inference_mode():
        logits = load_model(directory, CPU)(torch.tensor([whole])).logits[0].double()
    return sum(float(logits[i - 1].log_softmax(0)[whole[i]]) for i in range(start, len(whole)))


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


def test_protocol_is_of_the_items(tmp_path: Path, llama_directory: Path) -> None:
    found = []
    for number, gold in enumerate((0, 1)):
        items = [{**COMPACT["piqa"], "gold": gold}, COMPACT["piqa"], COMPACT["piqa"]]
        path = write(tmp_path / f"{number}.jsonl", *items)
        spec = ZeroShot(kind="zero_shot", task="piqa", path=str(path), items=2)
        found += [row.protocol for row in zero_shot.evaluate(job_of(llama_directory), spec)]
    assert found[0] == found[1] != found[2] == found[3]


def planned(task: dict[str, Any]) -> list[str]:
    """Evaluations of the tiny study with one more task on the uncompressed model."""
    params = tiny_params()
    params["tasks"]["more"] = task
    params["models"]["tiny"]["baseline_tasks"] = ["more"]
    return [path for path in Plan(parse(params)).live()["evaluate"] if "-more-" in path]


def test_the_key_covers_what_is_in_the_file_not_where_it_lies(inputs: Path) -> None:
    write(inputs / "piqa.jsonl", COMPACT["piqa"])
    task = {"kind": "zero_shot", "task": "piqa", "path": "piqa.jsonl"}
    before = planned(task)
    write(inputs / "moved.jsonl", COMPACT["piqa"])
    assert planned({**task, "path": "moved.jsonl"}) == before
    write(inputs / "piqa.jsonl", {**COMPACT["piqa"], "gold": 0})
    assert planned(task) != before


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("piqa", None, "tasks.more.path: 'items.jsonl' is not a file"),
        ("piqa", "no json", "tasks.more.path: items.jsonl is not JSON lines"),
        ("piqa", "", "tasks.more.path: items.jsonl is not allowed; allowed: one JSON object"),
        (
            "piqa",
            '{"question": "q", "answer": "a"}',
            "tasks.more.path: line 1 of items.jsonl has question, answer; allowed: "
            "goal, sol1, sol2, label or query, choices, gold",
        ),
        ("piqa", json.dumps({**COMPACT["piqa"], "gold": 2}), "gold 2 is not allowed"),
        ("piqa", json.dumps({**COMPACT["piqa"], "query": "Sit?"}), "does not begin with"),
        ("boolq", json.dumps(COMPACT["openbookqa"]), "line 1 of items.jsonl is not an item"),
        ("winogrande", json.dumps(COMPACT["piqa"]), "context_options, continuation, gold"),
        ("hotpotqa", json.dumps(COMPACT["piqa"]), "allowed: question, answer"),
    ],
)
def test_a_wrong_file_stops_planning(
    inputs: Path, task: str, content: str | None, message: str
) -> None:
    if content is not None:
        (inputs / "items.jsonl").write_text(content)
    spec = {"kind": "zero_shot", "task": task, "path": "items.jsonl"}
    if task == "hotpotqa":
        spec = {"kind": "hotpotqa", "path": "items.jsonl"}
    with pytest.raises(TensorpressError) as caught:
        planned(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_line_further_down_stops_the_job_before_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", COMPACT["piqa"], {"query": "Question: q\n"})
    spec = ZeroShot(kind="zero_shot", task="piqa", path=str(path))
    with pytest.raises(TensorpressError, match="path: line 2 of"):
        zero_shot.evaluate(job_of(tmp_path / "no model"), spec)


def test_a_dataset_out_of_reach_stops_planning_and_the_job(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    # a name that no cache holds, whatever the machine has seen before
    missing = dataclasses.replace(STANDARD["piqa"].dataset, path="nobody/nothing")
    monkeypatch.setitem(STANDARD, "piqa", dataclasses.replace(STANDARD["piqa"], dataset=missing))
    with pytest.raises(TensorpressError, match=r"^tasks\.more: dataset nobody/nothing is not in"):
        planned({"kind": "zero_shot", "task": "piqa"})
    monkeypatch.setattr(
        "tensorpress.evaluation.harness.load_yaml",
        lambda path: {**load_yaml(path), "dataset_path": "nobody/nothing"},
    )
    spec = ZeroShot(kind="zero_shot", task="piqa")
    with pytest.raises(TensorpressError, match=r"^zero_shot piqa: dataset nobody/nothing is not"):
        zero_shot.evaluate(job_of(inputs / "no model"), spec)


def test_containment_and_f1() -> None:
    assert contains("It was the Chief of protocol.", " Chief of Protocol ")
    assert not contains("It was a chief", "Chief of Protocol")
    assert normalised("The U.S.  Army's a tank!") == "us armys tank"
    assert token_f1("the Greenwich Village!", "Greenwich Village, New York City") == pytest.approx(
        2 * (2 / 2) * (2 / 5) / (1 + 2 / 5)
    )
    assert token_f1("no no", "no") == pytest.approx(2 * (1 / 2) * 1 / (3 / 2))
    assert token_f1("yes", "no") == 0
    assert token_f1("the", "a") == 1


PROMPTS = ["One", "The other statement of the language is", "A list", "If"]


def test_continuations_do_not_depend_on_the_batch(llama_directory: Path) -> None:
    model, tokenizer = load_model(llama_directory, CPU), load_tokenizer(llama_directory)
    together = greedy_continuations(model, tokenizer, PROMPTS, 12, 4, CPU)
    for prompt, made in zip(PROMPTS, together, strict=True):
        (alone,) = greedy_continuations(model, tokenizer, [prompt], 12, 1, CPU)
        assert alone.text == made.text
        assert alone.log_probabilities == pytest.approx(made.log_probabilities, abs=1e-5)
        assert len(alone.log_probabilities) == 12


def test_continuations_are_the_likeliest_tokens(llama_directory: Path) -> None:
    model, tokenizer = load_model(llama_directory, CPU), load_tokenizer(llama_directory)
    # a chat model's own settings must not leak in
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 5.0
    (made,) = greedy_continuations(model, tokenizer, PROMPTS[:1], 8, 1, CPU)
    ids = tokenizer(PROMPTS[0])["input_ids"]
    nats = []
    with torch.inference_mode():
        for _ in range(8):
            scores = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)
            ids.append(int(scores.argmax()))
            nats.append(float(scores.max()))
    assert made.text == tokenizer.decode(ids[-8:], skip_special_tokens=True)
    assert made.log_probabilities == pytest.approx(nats, abs=1e-5)


def test_continuations_end_with_the_text(llama_directory: Path) -> None:
    model, tokenizer = load_model(llama_directory, CPU), load_tokenizer(llama_directory)
    (free,) = greedy_continuations(model, tokenizer, PROMPTS[:1], 8, 1, CPU)
    first = tokenizer(PROMPTS[0])["input_ids"]
    with torch.inference_mode():
        model.generation_config.eos_token_id = int(
            model(torch.tensor([first])).logits[0, -1].argmax()
        )
    ended, other = greedy_continuations(model, tokenizer, PROMPTS[:2], 8, 2, CPU)
    assert ended.log_probabilities == pytest.approx(free.log_probabilities[:1], abs=1e-5)
    assert len(other.log_probabilities) > 1


def test_a_prompt_without_room_is_refused(llama_directory: Path) -> None:
    model, tokenizer = load_model(llama_directory, CPU), load_tokenizer(llama_directory)
    with pytest.raises(TensorpressError, match="allowed: up to 88, so that 40 new ones fit into"):
        greedy_continuations(model, tokenizer, [tiny_text()[:400]], 40, 1, CPU)


def test_hotpotqa_by_hand(tmp_path: Path, llama_directory: Path) -> None:
    model, tokenizer = load_model(llama_directory, CPU), load_tokenizer(llama_directory)
    questions = ["Is it so? ", "Where is it?", "Who?"]
    prompts = [f"{question.strip()} The answer is" for question in questions]
    made = greedy_continuations(model, tokenizer, prompts, 15, 1, CPU)
    # the model's own words as the answer to the first question: found, and all of it
    answers = [made[0].text, "in Paris", "Ann"]
    items = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    path = write(tmp_path / "hotpot.jsonl", *items)
    spec = HotpotQA(kind="hotpotqa", path=str(path))
    rows = {row.metric: row for row in hotpotqa.evaluate(job_of(llama_directory), spec)}
    assert rows["contains"].value == pytest.approx(1 / 3)
    assert rows["contains"].stderr == pytest.approx(math.sqrt(2 / 9 / 2))
    assert rows["f1"].value == pytest.approx(1 / 3)
    nats = [
        log_probability(llama_directory, prompt, f" {answer.strip()}")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    assert rows["answer_log_probability"].value == pytest.approx(sum(nats) / 3, rel=1e-5)
    assert {row.samples for row in rows.values()} == {3}


def test_samples_are_listed(tmp_path: Path, llama_directory: Path) -> None:
    spec = Generation(kind="generation", new_tokens=5)
    rows = generation.evaluate(job_of(llama_directory), spec)
    whole = [row for row in rows if not row.subject]
    assert [row.metric for row in whole] == ["mean_log_probability"]
    assert whole[0].samples == 25
    parts = [r.value for r in rows if r.subject and r.metric == "mean_log_probability"]
    assert whole[0].value == pytest.approx(sum(parts) / 5)
    write_rows([_result(row) for row in rows], ResultRow, tmp_path / "results.parquet")
    tables = {"results": tmp_path / "results.parquet"}
    samples = run_query("samples", tables, ROOT / "queries").df()
    assert set(samples["prompt"]) == set(generation.PROMPTS)
    assert set(samples["tokens"]) == {5.0}
    assert set(samples["text"]) == {row.text for row in rows if row.subject}
    assert sorted(samples["mean_log_probability"]) == pytest.approx(sorted(parts))


def _result(row: EvalRow) -> ResultRow:
    empty = {"str": "", "int": 1, "float": 1.0}
    fields = {f.name: empty.get(str(f.type)) for f in dataclasses.fields(ResultRow)}
    return ResultRow(**{**fields, "kind": "generation", **dataclasses.asdict(row)})
