"""A BERT without a head: its embeddings of sentences, what compresses it, what it is not asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.stages import ask, calibrated, placed
from support.study import Study
from support.workspace import masked_tokenizer, save_tiny, tiny_bert, tiny_params, tiny_text
from transformers import AutoConfig, BertModel

from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.checkpoints.moments import save_moments
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.commands.init import init
from tensorpress.config.params import parse
from tensorpress.config.tasks.sentence_fidelity import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.sentences import sentence_pairs
from tensorpress.evaluation.tasks import sentence_fidelity
from tensorpress.files.paths import moments
from tensorpress.methods.registry import load
from tensorpress.objectives import registry
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.sources.inputs import LocalModel
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer
from tensorpress.stages.fetching import fetch_model

ENCODING = registry.load("encoding")
SPEC = Spec(kind="sentence_fidelity", corpus="text", window=24, pairs=12, batch=5)


def encoder(folder: Path) -> Path:
    return save_tiny(BertModel(tiny_bert().config), folder, masked_tokenizer())


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fetched one, as sentence-transformers ship it: pooler and all."""
    folder = tmp_path_factory.mktemp("bare")
    spec = LocalModel(source="local", path=str(encoder(folder / "source")))
    fetch_model("b", spec, folder / "fetched", CPU)
    return folder / "fetched"


def measured(directory: Path, dense: Path, folder: Path) -> dict[str, EvalRow]:
    corpus = folder / "text.txt"
    corpus.write_text(tiny_text(), encoding="utf-8")
    job = EvaluationJob(directory, dense, {"text": corpus}, CPU)
    rows = sentence_fidelity.evaluate(job, SPEC)
    return {" ".join(filter(None, (row.state, row.metric))): row for row in rows}


def by_hand(directory: Path, sentences: list[str]) -> torch.Tensor:
    """One sentence at a time, so without padding."""
    model, tokenizer = load_model(directory, CPU), load_tokenizer(directory)
    found = []
    for sentence in sentences:
        text = tokenizer(sentence)["input_ids"][: SPEC.window - 2]
        ids = torch.tensor([[tokenizer.cls_token_id, *text, tokenizer.sep_token_id]])
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        found.append(mean / mean.norm())
    return torch.stack(found)


def test_pairs_are_neighbours_of_a_paragraph() -> None:
    text = 'One is first. Two\nis second! "Three" is third? Four is fourth.\n\nFive is fifth. Six.'
    assert sentence_pairs(text, 9, 3) == [
        ("One is first.", "Two is second!"),
        ('"Three" is third?', "Four is fourth."),
    ]
    with pytest.raises(TensorpressError, match="has 0 pairs"):
        sentence_pairs(text, 9, 4)


def test_the_dense_model_loses_nothing(bare: Path, tmp_path: Path) -> None:
    assert type(load_model(bare, CPU)) is BertModel
    found = measured(bare, bare, tmp_path)
    assert found["cosine"].value == pytest.approx(1)
    assert found["recall_at_1_lost"].value == 0
    pairs = sentence_pairs(tiny_text(), SPEC.pairs, SPEC.least_words)
    first, second = (by_hand(bare, [pair[i] for pair in pairs]) for i in (0, 1))
    right = (first @ second.mT).argmax(1) == torch.arange(SPEC.pairs)
    assert found["dense recall_at_1"].value == pytest.approx(float(right.double().mean()))


def test_a_compressed_encoder(bare: Path, tmp_path: Path) -> None:
    """Calibrated with gradients; the table looked up by slices; its cosines are those by hand."""
    rows = ENCODING.rows(masked_tokenizer(), tiny_text(), 18, 6)
    save_moments(calibrated(bare, rows, 2), rows.numel(), tmp_path / "moments")
    placements = []
    for layer, group, method, settings in (
        (1, "ffn", "svd", {"rank": 8, "whiten": "both"}),
        (2, "embedding", "tt", {"order": 3, "rank": 8, "modes": "apart", "whiten": "both"}),
    ):
        spec = load(method).Spec(method=method, **settings)
        known = moments(tmp_path / "moments", layer)
        factors = decompose_layer(bare, spec, group, layer, known, CPU)[0]
        file = tmp_path / f"{group}.safetensors"
        save_factors(factors, file)
        modules = tuple(Checkpoint.open(bare).architecture.shape(layer).group(group))
        placements.append(placed(layer, modules, spec, file))
    assemble(bare, placements, "float32", tmp_path / "run")

    found = measured(tmp_path / "run", bare, tmp_path)
    pairs = sentence_pairs(tiny_text(), SPEC.pairs, SPEC.least_words)
    sentences = [pair[i] for i in (0, 1) for pair in pairs]
    cosines = (by_hand(bare, sentences) * by_hand(tmp_path / "run", sentences)).sum(1)
    assert found["cosine"].observations == pytest.approx(cosines.tolist(), abs=1e-5)
    assert 0.1 < found["cosine"].value < 0.999
    lost = found["dense recall_at_1"].value - found["compressed recall_at_1"].value
    assert found["recall_at_1_lost"].value == pytest.approx(lost)


def test_gradients_are_of_the_embedding_along_random_directions(bare: Path) -> None:
    """By a token's last state, with s their sum: those of u's part that is orthogonal to it."""
    model, states = load_model(bare, CPU), []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    model.register_forward_hook(keep)
    rows = ENCODING.rows(masked_tokenizer(), tiny_text(), 18, 64)
    ENCODING.backpropagate(model, rows)
    (found,) = states
    s, hidden = found.detach().sum(1), found.shape[2]
    torch.testing.assert_close(found.grad, found.grad[:, :1].expand_as(found.grad))
    each = found.grad[:, 0]
    torch.testing.assert_close((each * s).sum(1), torch.zeros(64), atol=1e-4, rtol=0)
    assert float((each.norm(dim=1) * s.norm(dim=1)).square().mean()) / 18 == pytest.approx(
        hidden - 1, rel=0.1
    )


@pytest.mark.parametrize(("model_type", "positions"), [("bert", 512), ("roberta", 510)])
def test_the_class_that_a_config_names_says_whether_there_is_a_head(
    model_type: str, positions: int
) -> None:
    config = AutoConfig.for_model(model_type).to_dict()
    for name, objective in ((None, "masked_lm"), (f"{model_type.title()}Model", "encoding")):
        classes = [name] if name else None
        made = architecture_of({**config, "architectures": classes}, "test")
        assert made.family.objective == objective
        # RoBERTa's begin behind that of padding
        assert made.size("positions") == positions
        assert made.tied


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "task 'heldout' (kind perplexity) is not allowed for encoding; allowed: kinds for"),
        (
            {"recover": {"train": "adapters", "rank": 2, "steps": 1}, "tasks": ["sentences"]},
            "recipes.svd.recover: training 'tiny' is not allowed for an encoder",
        ),
    ],
)
def test_what_predicts_nothing_is_refused_while_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder(tmp_path / "inputs/tiny")
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    params = tiny_params()
    params["tasks"]["sentences"] = {"kind": "sentence_fidelity", "corpus": "text"}
    params["recipes"] = {"svd": {**params["recipes"]["svd"], **change}}
    with pytest.raises(TensorpressError) as refused:
        Plan(parse(params))
    assert said in str(refused.value)


def test_init_refuses_what_predicts_nothing(tmp_path: Path) -> None:
    with pytest.raises(TensorpressError, match="an encoder of transformers without a head"):
        init(str(encoder(tmp_path / "e")), None, 10)


def test_the_query_has_a_row_a_run(tmp_path: Path) -> None:
    study = Study()
    for metric, state, value in (
        ("cosine", None, 0.9),
        ("recall_at_1", "dense", 0.5),
        ("recall_at_1", "compressed", 0.4),
        ("recall_at_1_lost", None, 0.1),
    ):
        study.add(
            metric, value, state=state, kind="sentence_fidelity", task="sentences", recipe="tt",
            protocol="p", stderr=0.01, stderr_samples=10**6, samples=20,
        )  # fmt: skip
    (row,) = ask("sentences", study.written(tmp_path)).to_dict("records")
    assert (row["cosine"], row["dense_recall"], row["recall"], row["recall_lost"]) == (
        0.9, 0.5, 0.4, 0.1,
    )  # fmt: skip
    assert row["recall_lost_half_width"] == pytest.approx(0.0196, rel=1e-3)
