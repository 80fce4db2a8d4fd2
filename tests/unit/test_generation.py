"""Continuations, HotpotQA and samples: greedy, one by one, by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from support.items import log_probability, write
from support.stages import ask, job_of
from support.study import result

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.checkpoints.rows import ResultRow, write_rows
from tensorpress.config.tasks.generation import Spec as Generation
from tensorpress.config.tasks.hotpotqa import Spec as HotpotQA
from tensorpress.evaluation.answers import contains, normalised, token_f1
from tensorpress.evaluation.continuations import greedy_continuations
from tensorpress.evaluation.tasks import generation, hotpotqa
from tensorpress.running.oom import CPU


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
    whole = [row for row in rows if row.prompt is None]
    assert [row.metric for row in whole] == ["mean_log_probability"]
    assert whole[0].samples == 25
    parts = [r.value for r in rows if r.prompt and r.metric == "mean_log_probability"]
    assert whole[0].value == pytest.approx(sum(parts) / 5)
    found = [result(kind="generation", **dataclasses.asdict(row)) for row in rows]
    write_rows(found, ResultRow, tmp_path / "results.parquet")
    tables = {"results": tmp_path / "results.parquet"}
    samples = ask("samples", tables)
    assert set(samples["prompt"]) == set(generation.PROMPTS)
    assert set(samples["tokens"]) == {5.0}
    assert set(samples["text"]) == {row.text for row in rows if row.prompt}
    assert sorted(samples["mean_log_probability"]) == pytest.approx(sorted(parts))
