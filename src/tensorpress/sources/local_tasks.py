"""Standard multiple-choice tasks: where lm-eval has them, and their items in local JSON lines.

Torch-free. A line holds either the columns of the task's own dataset or the compact form in which
such items are often passed on: ``query``, ``choices`` and ``gold``, for WinoGrande
``context_options``, ``continuation`` and ``gold``. Compact items are turned into the dataset's
columns, so that lm-eval's own prompts and metrics apply to both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.sources.hub_datasets import HubDataset

Item = dict[str, Any]
COMPACT = ("query", "choices", "gold")
COMPACT_CONTEXTS = ("context_options", "continuation", "gold")


@dataclass(frozen=True)
class StandardTask:
    """A task of lm-eval: its file under ``lm_eval/tasks``, its dataset, and two forms of items."""

    yaml: str
    dataset: HubDataset
    columns: tuple[str, ...]
    expand: Callable[[Mapping[str, Any]], Item]
    """A compact item in the columns of the dataset."""
    compact: tuple[str, ...] = COMPACT


def standard_items(task: str, path: Path, count: int | None, where: str) -> list[Item]:
    """The first ``count`` items of a file in the columns of the task's dataset.

    ``TensorpressError`` names the first line that is not such an item.
    """
    standard = STANDARD[task]
    items = []
    for number, line in enumerate(_lines(path, count, where), start=1):
        if set(standard.columns) <= set(line):
            items.append({column: line[column] for column in standard.columns})
        elif set(standard.compact) <= set(line):
            try:
                items.append(standard.expand(line))
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                raise TensorpressError(
                    f"{where}: line {number} of {path} is not an item of {task}: {error}"
                ) from error
        else:
            raise _wrong_columns(where, path, number, line, standard.columns, standard.compact)
    return items


def question_items(path: Path, count: int | None, where: str) -> list[Item]:
    """The first ``count`` lines of a file, each with a ``question`` and an ``answer``.

    ``TensorpressError`` names the first line that has not.
    """
    columns = ("question", "answer")
    lines = _lines(path, count, where)
    for number, line in enumerate(lines, start=1):
        if not all(isinstance(line.get(column), str) for column in columns):
            raise _wrong_columns(where, path, number, line, columns)
    return [{column: line[column] for column in columns} for line in lines]


def _lines(path: Path, count: int | None, where: str) -> list[Item]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [json.loads(line) for line in islice(file, count)]
    except (OSError, ValueError) as error:
        raise TensorpressError(f"{where}: {path} is not JSON lines: {error}") from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise TensorpressError(f"{where}: {path} is not allowed; allowed: one JSON object a line")
    return lines


def _wrong_columns(
    where: str, path: Path, number: int, line: Item, *allowed: tuple[str, ...]
) -> TensorpressError:
    forms = " or ".join(", ".join(columns) for columns in allowed)
    return TensorpressError(
        f"{where}: line {number} of {path} has {', '.join(line)}; allowed: {forms}"
    )


def _piqa(item: Mapping[str, Any]) -> Item:
    first, second = item["choices"]
    goal = _unprefixed(item["query"], "Question: ").removesuffix("\n")
    return {"goal": goal, "sol1": first, "sol2": second, "label": _gold(item, 2)}


def _arc(item: Mapping[str, Any]) -> Item:
    return {"question": _unprefixed(item["query"], "Question: "), **_lettered(item)}


def _openbookqa(item: Mapping[str, Any]) -> Item:
    return {"question_stem": item["query"], **_lettered(item)}


def _boolq(item: Mapping[str, Any]) -> Item:
    passage, found, question = _unprefixed(item["query"], "Passage: ").rpartition("\nQuestion: ")
    if not found or not question.endswith("?") or item["choices"] != ["no", "yes"]:
        raise ValueError("a passage, a question and the choices no, yes are expected")
    return {"passage": passage, "question": question[:-1], "label": _gold(item, 2)}


def _hellaswag(item: Mapping[str, Any]) -> Item:
    activity, found, context = item["query"].partition(": ")
    if not found:
        raise ValueError("the query does not begin with an activity and a colon")
    # lm-eval joins the two parts and strips the end, so that an empty second part leaves no trace
    parts = {"activity_label": activity, "ctx_a": context, "ctx_b": ""}
    return {**parts, "endings": item["choices"], "label": str(_gold(item, len(item["choices"])))}


def _winogrande(item: Mapping[str, Any]) -> Item:
    first, second = item["context_options"]
    # lm-eval puts an option in the place of the first underscore: here the whole context is one
    sentence = f"_ {item['continuation']}"
    answer = str(_gold(item, 2) + 1)
    return {"sentence": sentence, "option1": first, "option2": second, "answer": answer}


def _lettered(item: Mapping[str, Any]) -> Item:
    letters = [chr(ord("A") + place) for place in range(len(item["choices"]))]
    choices = {"text": list(item["choices"]), "label": letters}
    return {"choices": choices, "answerKey": letters[_gold(item, len(letters))]}


def _gold(item: Mapping[str, Any], choices: int) -> int:
    gold = item["gold"]
    if gold not in range(choices):
        raise ValueError(f"gold {gold!r} is not allowed; allowed: 0 to {choices - 1}")
    return int(gold)


def _unprefixed(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError(f"the query does not begin with {prefix!r}")
    return text.removeprefix(prefix)


STANDARD: dict[str, StandardTask] = {
    "arc_challenge": StandardTask(
        "arc/arc_challenge.yaml",
        HubDataset("allenai/ai2_arc", "ARC-Challenge"),
        ("question", "choices", "answerKey"),
        _arc,
    ),
    "arc_easy": StandardTask(
        "arc/arc_easy.yaml",
        HubDataset("allenai/ai2_arc", "ARC-Easy"),
        ("question", "choices", "answerKey"),
        _arc,
    ),
    "boolq": StandardTask(
        "super_glue/boolq/default.yaml",
        HubDataset("aps/super_glue", "boolq"),
        ("passage", "question", "label"),
        _boolq,
    ),
    "hellaswag": StandardTask(
        "hellaswag/hellaswag.yaml",
        HubDataset("Rowan/hellaswag"),
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        _hellaswag,
    ),
    "openbookqa": StandardTask(
        "openbookqa/openbookqa.yaml",
        HubDataset("allenai/openbookqa", "main"),
        ("question_stem", "choices", "answerKey"),
        _openbookqa,
    ),
    "piqa": StandardTask(
        "piqa/piqa.yaml",
        HubDataset("baber/piqa"),
        ("goal", "sol1", "sol2", "label"),
        _piqa,
    ),
    "winogrande": StandardTask(
        "winogrande/default.yaml",
        HubDataset("allenai/winogrande", "winogrande_xl"),
        ("sentence", "option1", "option2", "answer"),
        _winogrande,
        COMPACT_CONTEXTS,
    ),
}
"""Name in lm-eval -> task. A test compares the table with lm-eval's own files."""
