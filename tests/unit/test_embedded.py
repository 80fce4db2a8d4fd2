"""The embedded corpora and models, as far as seconds allow."""

from __future__ import annotations

import pytest
import torch

from tensorpress.architectures.families.table import architecture_of
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.embedded import corpus
from tensorpress.sources.embedded.muon import SMALLEST, Muon, orthogonalise
from tensorpress.sources.embedded.specs import EMBEDDED, VOCABULARY
from tensorpress.sources.embedded.tokenizer import train_tokenizer
from tensorpress.sources.embedded.training import balancing_loss, build, train


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_text_is_the_recorded_one(split: str) -> None:
    loaded = corpus.load(split)
    assert loaded.missing <= corpus.MAX_MISSING_SHARE * loaded.recorded
    if loaded.missing == 0:
        assert loaded.sha256 == corpus.read_record()[split].sha256


def test_splits_share_no_document_and_no_long_passage() -> None:
    train_text, heldout = corpus.documents("train"), corpus.documents("heldout")
    assert sum(map(len, train_text)) > 900_000
    assert sum(map(len, heldout)) > 100_000
    records = corpus.read_record()
    assert not set(records["train"].documents) & set(records["heldout"].documents)
    known = {p for document in train_text for p in document.split("\n\n")}
    assert not known & {p for document in heldout for p in document.split("\n\n")}


def test_too_many_missing_paragraphs_is_one_clear_error() -> None:
    record = corpus.read_record()["heldout"]
    with pytest.raises(TensorpressError, match="recorded paragraphs are missing in elsewhere"):
        corpus.select({}, record, "elsewhere")


def test_tokenizer_is_lossless() -> None:
    tokenizer = train_tokenizer(corpus.documents("heldout"), VOCABULARY)
    assert len(tokenizer) == VOCABULARY
    for text in ("naïve — 12,3\n\n\tx", corpus.documents("train")[0][:2000]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((40, 20), (20, 40), (3, 30, 20)):
        left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        values[..., -1] = 1.02 * SMALLEST * values.norm(dim=-1)  # of a norm that hardly changes
        made = torch.linalg.svdvals(orthogonalise(left * values[..., None, :] @ right))
        assert made.min() > 0.9
        assert made.max() < 1.1


def test_muon_solves_a_least_squares_problem() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    goal = torch.eye(8)
    muon = Muon([weight], lr=0.05)
    for step in range(60):
        muon.param_groups[0]["lr"] = 0.1 * (1 - step / 60)
        (weight - goal).square().sum().backward()
        muon.step()
        muon.zero_grad()
    assert float((weight.detach() - goal).norm() / goal.norm()) < 0.1


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_config_builds_the_model_that_planning_sees(name: str) -> None:
    spec = EMBEDDED[name]
    model = build(spec)
    architecture = architecture_of(spec.config, name)
    for layer in range(architecture.layers):
        for module, shape in architecture.shape(layer).modules.items():
            if not module.startswith("experts"):
                linear = model.get_submodule(architecture.family.linear_path(layer, module))
                assert tuple(linear.weight.shape) == (shape.out_features, shape.in_features)
    assert spec.config["num_key_value_heads"] < spec.config["num_attention_heads"]


def test_balancing_loss_is_one_when_even_and_counts_each_layer() -> None:
    spec = EMBEDDED["moe"]
    even = torch.eye(8).repeat(4, 1) * 20 + torch.eye(8).roll(1, 1).repeat(4, 1) * 20
    one = torch.zeros(32, 8)
    one[:, :2] = 20
    other = one.roll(2, 1)
    assert float(balancing_loss([even], spec)) == pytest.approx(1, abs=1e-3)
    assert float(balancing_loss([one, other], spec)) == pytest.approx(4, abs=1e-2)


DTYPE = torch.float32


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_same_seed_gives_the_same_weights(name: str) -> None:
    first, _, record = train(name, 0, CPU, threads=1, dtype=DTYPE, max_steps=2)
    again, _, _ = train(name, 0, CPU, threads=1, dtype=DTYPE, max_steps=2)
    other, _, _ = train(name, 1, CPU, threads=1, dtype=DTYPE, max_steps=2)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not torch.equal(first.model.norm.weight, other.model.norm.weight)
    assert record.final_loss_nats > 0
    assert not getattr(first.config, "output_router_logits", False)
