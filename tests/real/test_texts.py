"""WikiText-2 and the standard tasks from ../shared/data, with a small trained model."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from support.workspace import SHARED

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.config.tasks.generation import Spec as Generation
from tensorpress.config.tasks.hotpotqa import Spec as HotpotQA
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.config.tasks.zero_shot import Spec as ZeroShot
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import generation, hotpotqa, perplexity, zero_shot
from tensorpress.running.oom import CPU
from tensorpress.sources.corpora import fetch_corpus
from tensorpress.sources.inputs import Wikitext2Corpus

MODEL, DATA = SHARED / "models/stories260K", SHARED / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not MODEL.is_dir() or not (DATA / "lm_eval").is_dir(), reason=f"{SHARED} is missing"
    ),
]
JOB = EvaluationJob(MODEL, None, {}, CPU)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_wikitext2_is_its_rows_joined_by_blank_lines(tmp_path: Path, split: str) -> None:
    path = DATA / f"wikitext-2/{split}.txt"
    fetch_corpus("w", Wikitext2Corpus(source="wikitext2", path=str(path)), tmp_path / "w.txt")
    found = (tmp_path / "w.txt").read_text(encoding="utf-8")
    raw = path.read_text(encoding="utf-8")
    # the rows of the hub's dataset: a line with its end, or nothing where the line is blank
    rows = [line + "\n" if line.strip() else "" for line in raw.removesuffix("\n").split("\n")]
    assert len(rows) == {"test": 4358, "valid": 3760}[split]
    assert found == "\n\n".join(rows)
    assert found.split() == raw.split()


def test_wikitext2_perplexity_by_another_way(tmp_path: Path) -> None:
    corpus = Wikitext2Corpus(source="wikitext2", path=str(DATA / "wikitext-2/test.txt"))
    fetch_corpus("w", corpus, tmp_path / "w.txt")
    job = EvaluationJob(MODEL, None, {"text": tmp_path / "w.txt"}, CPU, {"text": corpus.joined})
    settings = {"kind": "perplexity", "corpus": "w", "window": 512, "max_windows": 8}
    row = perplexity.evaluate(job, Perplexity.model_validate(settings))[0]
    assert row.version.startswith("WikiText-2, rows joined by blank lines; windows of 512")
    # transformers' own loss, window by window
    model, tokenizer = load_model(MODEL, CPU), load_tokenizer(MODEL)
    ids = tokenizer((tmp_path / "w.txt").read_text()[:20_000], add_special_tokens=False)
    windows = torch.tensor(ids["input_ids"][: 8 * 512]).view(8, 512)
    with torch.inference_mode():
        losses = [float(model(w[None], labels=w[None]).loss) for w in windows]
    assert row.value == pytest.approx(float(torch.tensor(losses).mean().exp()), rel=1e-4)


@pytest.mark.parametrize("task", ["piqa", "arc_easy", "winogrande", "boolq"])
def test_standard_tasks_from_local_files(task: str) -> None:
    path = str(DATA / f"lm_eval/{task}.jsonl")
    spec = ZeroShot(kind="zero_shot", task=task, path=path, items=50)
    rows = {row.metric: row for row in zero_shot.evaluate(JOB, spec)}
    assert set(rows) == ({"acc", "acc_norm"} if task in ("piqa", "arc_easy") else {"acc"})
    for row in rows.values():
        assert 0 <= row.value <= 1
        assert row.stderr == pytest.approx((row.value * (1 - row.value) / 49) ** 0.5)
        assert row.samples == 50
        assert re.fullmatch(r"lm-eval 0\.4\.13, task version \d\.0", row.version)


@pytest.mark.parametrize("task", ["piqa", "arc_easy", "winogrande", "boolq"])
def test_a_handful_of_choices_computed_by_hand(task: str) -> None:
    """Prompts of the tasks' papers and sums of log-softmax, from the raw lines."""
    path = DATA / f"lm_eval/{task}.jsonl"
    with path.open() as file:
        items = [json.loads(line) for line in itertools.islice(file, 12)]
    model, tokenizer = load_model(MODEL, CPU), load_tokenizer(MODEL)
    right = 0
    for item in items:
        nats = []
        for context, continuation in _asked(task, item):
            whole = tokenizer(context + continuation)["input_ids"]
            start = len(tokenizer(context)["input_ids"])
            with torch.inference_mode():
                # what does not fit is cut off on the left
                logits = model(torch.tensor([whole[-513:][:-1]])).logits[0].double()
            scores = logits.log_softmax(-1)[-(len(whole) - start) :]
            nats.append(sum(float(s[i]) for s, i in zip(scores, whole[start:], strict=True)))
        right += nats.index(max(nats)) == item["gold"]
    spec = ZeroShot(kind="zero_shot", task=task, path=str(path), items=12, batch=5)
    rows = {row.metric: row for row in zero_shot.evaluate(JOB, spec)}
    assert rows["acc"].value == pytest.approx(right / 12)


def _asked(task: str, item: dict) -> list[tuple[str, str]]:
    if task == "winogrande":
        return [(context, f" {item['continuation']}") for context in item["context_options"]]
    query = item["query"].removeprefix("Passage: ").rstrip("\n")
    return [(f"{query}\nAnswer:", f" {choice}") for choice in item["choices"]]


def test_hotpotqa_and_samples() -> None:
    path = str(DATA / "lm_eval/hotpotqa.jsonl")
    spec = HotpotQA(kind="hotpotqa", path=path, items=50)
    rows = {row.metric: row for row in hotpotqa.evaluate(JOB, spec)}
    assert set(rows) == {"contains", "f1", "answer_log_probability"}
    # a model of children's stories does not know
    assert rows["contains"].value < 0.1
    assert rows["answer_log_probability"].value < -10 < -rows["answer_log_probability"].stderr
    samples = generation.evaluate(JOB, Generation(kind="generation", new_tokens=20))
    story = next(r for r in samples if "Once upon" in (r.prompt or "") and r.metric == "tokens")
    assert "play" in story.text
