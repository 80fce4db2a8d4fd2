"""Perplexity protocols: what they cover, the papers' texts, and queries that keep them apart."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from support.study import method_spec, result
from support.workspace import ROOT, save_tiny, tiny_llama, tiny_params, tiny_text, tiny_tokenizer

from tensorpress.checkpoints.rows import ResultRow, write_rows
from tensorpress.config.params import parse
from tensorpress.config.tasks.ngram import Spec as Ngram
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.protocols import Protocol, tokenizer_sha256
from tensorpress.evaluation.tasks import ngram
from tensorpress.evaluation.tasks import perplexity as perplexity_task
from tensorpress.objectives.windows import token_windows
from tensorpress.planning.compression import compression
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.report.queries import run_query
from tensorpress.running.oom import CPU
from tensorpress.sources.corpora import fetch_corpus
from tensorpress.sources.hub_datasets import HubDataset, require
from tensorpress.sources.inputs import C4Corpus, FileCorpus, Wikitext2Corpus

PROTOCOL = Protocol("a" * 64, "one file", None, 64, None, False, "float32", "b" * 64)


@pytest.fixture
def job(llama_directory: Path, tmp_path: Path) -> EvaluationJob:
    (tmp_path / "text.txt").write_text(tiny_text()[:8000], encoding="utf-8")
    text = tmp_path / "text.txt"
    return EvaluationJob(
        llama_directory, None, {"text": text, "training": text}, CPU, {"text": "one file"}
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def spec(**fields: object) -> Perplexity:
    settings = {"kind": "perplexity", "corpus": "c", "window": 64, "max_windows": 4}
    return Perplexity.model_validate({**settings, **fields})


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Protocol)])
def test_every_field_is_in_the_hash(field: str) -> None:
    value = getattr(PROTOCOL, field)
    other = not value if isinstance(value, bool) else (value or 0) * 2 or 7
    changed = dataclasses.replace(PROTOCOL, **{field: other})
    assert changed.id != PROTOCOL.id
    assert len(changed.id) == 10


def test_words_name_what_a_reader_must_know() -> None:
    assert PROTOCOL.words == "one file; windows of 64, non-overlapping; float32"
    other = dataclasses.replace(PROTOCOL, bos=True, max_windows=256, characters=9, dtype="float16")
    assert other.words == (
        "one file; windows of 64, non-overlapping; float16; BOS first; at most 256 windows; "
        "first 9 characters"
    )


def test_rows_carry_the_protocol_of_what_was_measured(job: EvaluationJob) -> None:
    rows = perplexity_task.evaluate(job, spec())
    assert [row.metric for row in rows] == ["perplexity", "bits_per_byte"]
    (protocol,) = {row.protocol for row in rows}
    same = {row.protocol for row in perplexity_task.evaluate(job, spec(batch=2))}
    assert same == {protocol}  # a batch decides no number
    half = perplexity_task.evaluate(dataclasses.replace(job, dtype="bfloat16"), spec())
    assert half[0].protocol != protocol
    assert half[0].value != rows[0].value
    assert half[0].value == pytest.approx(rows[0].value, rel=0.02)
    assert perplexity_task.evaluate(job, spec(characters=7000))[0].protocol != protocol
    job.corpora["text"].write_text(tiny_text()[:8001], encoding="utf-8")
    assert perplexity_task.evaluate(job, spec())[0].protocol != protocol


def test_ngram_rows_carry_a_protocol_of_the_same_text(job: EvaluationJob) -> None:
    settings = {"kind": "ngram", "training": "c", "corpus": "c", "window": 64, "order": 2}
    rows = ngram.evaluate(job, Ngram.model_validate(settings))
    text = hashlib.sha256(job.corpora["text"].read_bytes()).hexdigest()
    tokenizer = tokenizer_sha256(job.run_directory)
    record = Protocol(text, "one file", None, 64, None, False, "float64", tokenizer)
    assert {row.protocol for row in rows} == {record.id}


def test_tokenizer_hash_is_of_what_tokenises(tmp_path: Path) -> None:
    for name, vocabulary in (("one", 300), ("two", 310)):
        tiny_tokenizer(vocabulary).save_pretrained(tmp_path / name)
    first = tokenizer_sha256(tmp_path / "one")
    (tmp_path / "one/tokenizer_config.json").write_text("{}")
    assert tokenizer_sha256(tmp_path / "one") == first
    assert tokenizer_sha256(tmp_path / "two") != first
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2/vocab.json").write_text("{}")
    with pytest.raises(TensorpressError, match=r"no tokenizer; allowed: tokenizer\.json"):
        tokenizer_sha256(tmp_path / "gpt2")
    (tmp_path / "gpt2/merges.txt").write_text("a b")
    assert tokenizer_sha256(tmp_path / "gpt2") != first


def test_bos_stands_before_every_window_and_no_text_is_lost() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(TensorpressError, match="the tokenizer has no BOS"):
        token_windows(tokenizer, tiny_text(), 64, 3, bos=True)
    tokenizer.bos_token = "<end>"
    windows = token_windows(tokenizer, tiny_text(), 64, 3, bos=True)
    assert windows.shape == (3, 64)
    assert set(windows[:, 0].tolist()) == {tokenizer.bos_token_id}
    ids = tokenizer(tiny_text(), add_special_tokens=False)["input_ids"]
    assert windows[:, 1:].flatten().tolist() == ids[: 3 * 63]


def test_half_precision_that_overflows_is_an_error(tmp_path: Path, job: EvaluationJob) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.fill_(1e30)
    broken = dataclasses.replace(job, run_directory=save_tiny(model, tmp_path / "broken"))
    assert math.isfinite(perplexity_task.evaluate(broken, spec())[0].value)
    half = dataclasses.replace(broken, dtype="float16")
    with pytest.raises(TensorpressError, match="window 0 of 4 has a loss of"):
        perplexity_task.evaluate(half, spec())


def test_wikitext2_rows_are_joined_as_papers_do(tmp_path: Path) -> None:
    raw = " \n = Title = \n \n First . \n Second\u2028one . \n"
    (tmp_path / "wiki.test.raw").write_text(raw, encoding="utf-8")
    corpus = Wikitext2Corpus(source="wikitext2", path=str(tmp_path / "wiki.test.raw"))
    fetch_corpus("w", corpus, tmp_path / "out.txt")
    expected = "\n\n = Title = \n\n\n\n\n First . \n\n\n Second\u2028one . \n"
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_c4_is_the_first_documents_joined_by_a_space(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"d{i}\nx", "url": "u"}) + "\n" for i in range(1200))
    path = tmp_path / f"c4{suffix}"
    path.write_bytes(gzip.compress(lines.encode()) if suffix.endswith("gz") else lines.encode())
    fetch_corpus("c4", C4Corpus(source="c4", path=str(path)), tmp_path / "out.txt")
    text = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert text == " ".join(f"d{i}\nx" for i in range(1100))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for spec, content, expected in (
        (FileCorpus(source="file", path=str(tmp_path / "in")), "one\n", "one\n"),
        (Wikitext2Corpus(source="wikitext2", path=str(tmp_path / "in")), "one\n", "one\n"),
        (C4Corpus(source="c4", path=str(tmp_path / "in")), '{"text": "one"}\n', "one"),
    ):
        (tmp_path / "in").write_text(content, encoding="utf-8-sig")
        assert (tmp_path / "in").read_bytes().startswith(b"\xef\xbb\xbf")
        fetch_corpus("text", spec, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == expected.encode()
    (tmp_path / "in").write_text("", encoding="utf-8-sig")
    with pytest.raises(TensorpressError, match=r"corpora\.text: the text is empty"):
        fetch_corpus("text", FileCorpus(source="file", path=str(tmp_path / "in")), tmp_path / "out")


def test_c4_of_another_form_is_an_error(tmp_path: Path) -> None:
    for number, content in enumerate(("plain text", '{"words": 1}', "[1]")):
        path = tmp_path / f"{number}.json"
        path.write_text(content)
        with pytest.raises(TensorpressError, match=r"corpora\.c4\.path: .* JSON lines with a"):
            fetch_corpus("c4", C4Corpus(source="c4", path=str(path)), tmp_path / "out.txt")
    with pytest.raises(TensorpressError, match="is not a file"):
        fetch_corpus("c4", C4Corpus(source="c4", path="no.json"), tmp_path / "out.txt")


def test_a_local_copy_of_a_paper_s_text_is_planned_by_content(inputs: Path) -> None:
    params = tiny_params()
    params["corpora"]["text"] = {"source": "wikitext2", "path": "inputs/text.txt"}
    before = live_paths(Plan(parse(params)))
    (inputs / "inputs/copy.txt").write_text(tiny_text())
    params["corpora"]["text"]["path"] = "inputs/copy.txt"
    assert live_paths(Plan(parse(params))) == before
    (inputs / "inputs/copy.txt").write_text(tiny_text()[1:])
    assert live_paths(Plan(parse(params)))["evaluate"] != before["evaluate"]
    params["corpora"]["text"]["path"] = "no.txt"
    with pytest.raises(TensorpressError, match=r"corpora\.text\.path: 'no\.txt' is not a file"):
        Plan(parse(params))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("corpus_class", [Wikitext2Corpus, C4Corpus])
def test_a_hub_out_of_reach_stops_planning_until_the_text_is_there(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, corpus_class: type
) -> None:
    # a name that no cache holds, whatever the machine has seen before
    monkeypatch.setattr(
        corpus_class, "dataset", dataclasses.replace(corpus_class.dataset, path="nobody/nothing")
    )
    params = tiny_params()
    source = {Wikitext2Corpus: "wikitext2", C4Corpus: "c4"}[corpus_class]
    params["corpora"]["text"] = {"source": source}
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(params))
    message = str(caught.value)
    assert message.startswith("corpora.text: dataset nobody/nothing is not in the cache")
    assert "name a local file with path" in message
    assert "\n" not in message
    with pytest.raises(TensorpressError, match=r"corpora\.text: dataset nobody/nothing"):
        fetch_corpus("text", parse(params).corpora["text"], inputs / "out.txt")
    with monkeypatch.context() as connected:
        connected.setattr("tensorpress.planning.inputs.require", lambda *_: None)
        plan = Plan(parse(params))
    made = Path(next(path for path in live_paths(plan)["fetch"] if path.endswith(".txt")))
    made.parent.mkdir(parents=True)
    made.write_text("fetched before the network went")
    assert live_paths(Plan(parse(params))) == live_paths(plan)


@pytest.mark.usefixtures("offline")
def test_an_unknown_dataset_is_one_line() -> None:
    with pytest.raises(TensorpressError, match=r"^here: dataset nobody/nothing is not .*connect"):
        require(HubDataset("nobody/nothing", revision="0" * 40), "here")


def results(tmp_path: Path, *points: tuple[str, str, float, float]) -> dict[str, Path]:
    """A results table of (recipe, protocol, bits saved, perplexity), named after methods."""
    rows = [
        result(
            model="m",
            task="t",
            kind="perplexity",
            metric="perplexity",
            recipe=recipe,
            run=recipe,
            **asdict(compression([method_spec(recipe)] if recipe != "baseline" else [])),
            layers=() if recipe == "baseline" else (1,),
            layer_count=int(recipe != "baseline"),
            protocol=protocol,
            bits_saved_with_embeddings_percent=saved,
            value=value,
        )
        for recipe, protocol, saved, value in points
    ]
    write_rows(rows, ResultRow, tmp_path / "results.parquet")
    return {"results": tmp_path / "results.parquet"}


def query(name: str, tables: dict[str, Path]) -> list[dict]:
    return run_query(name, tables, ROOT / "queries").df().to_dict("records")


def test_queries_compare_equal_protocols_only(tmp_path: Path) -> None:
    tables = results(
        tmp_path,
        ("baseline", "short", 0, 20.0),
        ("baseline", "long", 0, 10.0),
        ("svd", "short", 10, 24.0),
        ("drop", "long", 12, 11.0),
        ("tt", "long", 9, 12.0),
    )
    efficient = {(p["recipe"], p["protocol"]): p["efficient"] for p in query("pareto", tables)}
    # the run that only drops modules beats svd on both axes, but was measured in longer windows
    assert efficient["svd", "short"]
    assert not efficient["tt", "long"]
    best = {(b["protocol"], b["budget_percent"]): b for b in query("best_per_budget", tables)}
    assert best["short", 5]["recipe"] == "svd"
    assert math.isnan(best["short", 5]["drop_perplexity"])
    assert best["long", 5]["recipe"] == "tt"
    assert best["long", 5]["drop_perplexity"] == 11
    lost = {s["recipe"]: s["nats_lost"] for s in query("layer_sensitivity", tables)}
    assert lost["svd"] == pytest.approx(math.log(24 / 20))
    assert lost["tt"] == pytest.approx(math.log(12 / 10))
    assert {line["recipe"] for line in query("lines", tables)} == {"svd", "drop", "tt"}
    assert {b["protocol"] for b in query("baseline", tables)} == {"short", "long"}
