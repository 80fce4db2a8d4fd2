"""Files of items: what is in them counts, and a wrong one stops planning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks._yaml_loader import load_yaml
from support.items import COMPACT, write
from support.stages import job_of
from support.workspace import tiny_params

from tensorpress.config.params import parse
from tensorpress.config.tasks.zero_shot import Spec as ZeroShot
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.tasks import zero_shot
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.sources.local_tasks import STANDARD


def planned(task: dict[str, Any]) -> list[str]:
    """Evaluations of the tiny study with one more task on the uncompressed model."""
    params = tiny_params()
    params["tasks"]["more"] = task
    params["models"]["tiny"]["baseline_tasks"] = ["more"]
    return [path for path in live_paths(Plan(parse(params)))["evaluate"] if "-more-" in path]


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
