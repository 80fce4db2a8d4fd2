"""Items of lm-eval's tasks, and how likely the model finds an answer, without lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.running.oom import CPU

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
