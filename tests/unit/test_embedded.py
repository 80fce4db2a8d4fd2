"""The embedded corpora and models, as far as seconds allow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import transformers

from tensorpress.architectures.families.table import architecture_of
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.embedded import corpus, prose, training
from tensorpress.sources.embedded.muon import SMALLEST, Muon, orthogonalise
from tensorpress.sources.embedded.neighbours import OFFSETS
from tensorpress.sources.embedded.routers import CONCENTRATION, layer_loss
from tensorpress.sources.embedded.specs import EMBEDDED, VOCABULARY, RouterSpec
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


TRAINED = ("dense", "bert", "vit", "moe", "moe_himoe")
"""The other mixtures differ from the last one in weights of its loss alone."""


@pytest.mark.parametrize("name", TRAINED)
def test_config_builds_the_model_that_planning_sees(name: str) -> None:
    spec = EMBEDDED[name]
    model = build(spec)
    architecture = architecture_of(spec.config, name)
    for layer in range(architecture.layers):
        for module, shape in architecture.shape(layer).modules.items():
            if not module.startswith("experts"):
                linear = model.get_submodule(architecture.family.linear_path(layer, module))
                assert tuple(linear.weight.shape) == (shape.out_features, shape.in_features)
    assert getattr(transformers, architecture.objective.auto_class)._model_mapping[
        type(model.config)
    ] is type(model)


def test_balancing_loss_is_one_when_even_and_counts_each_layer() -> None:
    spec = EMBEDDED["moe"]
    even = torch.eye(8).repeat(4, 1) * 20 + torch.eye(8).roll(1, 1).repeat(4, 1) * 20
    one = torch.zeros(32, 8)
    one[:, :2] = 20
    other = one.roll(2, 1)
    assert float(balancing_loss([even], spec)) == pytest.approx(1, abs=1e-3)
    assert float(balancing_loss([one, other], spec)) == pytest.approx(4, abs=1e-2)


def test_mixtures_differ_in_what_their_routers_learn_alone() -> None:
    mixtures = {n: spec for n, spec in EMBEDDED.items() if spec.config["model_type"] == "qwen3_moe"}
    assert len({spec.router for spec in mixtures.values()}) == len(mixtures) == 4
    assert {replace(spec, router=None) == EMBEDDED["moe"] for spec in mixtures.values()} == {True}


@pytest.mark.parametrize(
    ("logits", "of_all", "within_groups", "masses"),
    [
        ([0.0] * 8, 1 / 8, 1 / 4, 1 / 2),  # uniform: 1 / E, one over the size of a group, 1 / M
        ([200.0] + [0.0] * 7, 1.0, 1.0, 1.0),  # the other group has too little to be a number
        ([100.0, 0, 0, 0] * 2, 1 / 2, 1.0, 1 / 2),  # what Hi-MoE aims at
    ],
)
def test_router_losses_of_known_probabilities(
    logits: list[float], of_all: float, within_groups: float, masses: float
) -> None:
    rows = torch.tensor([logits, logits]).requires_grad_()
    probability = rows.detach().softmax(-1).unflatten(-1, (2, 4))
    assert float(CONCENTRATION["of_all"](probability)) == pytest.approx(of_all)
    if logits[0] < 200:
        assert float(CONCENTRATION["within_groups"](probability)) == pytest.approx(within_groups)
    chosen = rows.detach().topk(2).indices
    spec = RouterSpec(balance=0.0, z=0.0, intra=0.0, inter=1.0)
    assert layer_loss(rows, chosen, spec).item() == pytest.approx(masses)
    layer_loss(rows, chosen, RouterSpec(concentration="within_groups")).backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_the_published_loss_makes_groups_unequal_and_ours_equal() -> None:
    """A little more mass for the first group, where each prefers one expert."""
    slope = {}
    for name in ("of_all", "within_groups"):
        shift = torch.tensor(0.1, requires_grad=True)
        logits = torch.tensor([[9.0, 0, 0, 0] * 2]) + shift * torch.tensor([1.0] * 4 + [0.0] * 4)
        spec = RouterSpec(balance=0.0, z=0.0, concentration=name)
        layer_loss(logits, logits.detach().topk(2).indices, spec).backward()
        slope[name] = float(shift.grad)
    assert slope["of_all"] < 0 < slope["within_groups"]


def test_masked_lessons_ask_what_is_behind_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = corpus.documents("heldout")[:20]
    monkeypatch.setattr(prose, "documents", lambda split: text)
    spec = EMBEDDED["bert"]
    lessons = prose.masked_tokens(spec, seed=0)
    tokenizer = lessons.companion
    assert len(tokenizer) == spec.config["vocab_size"]
    batch = next(lessons.then)
    shown, labels = batch["input_ids"], batch["labels"]
    assert shown.shape == labels.shape == (spec.batch_tokens // spec.window, spec.window)
    assert set(shown[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert set(shown[:, -1].tolist()) == {tokenizer.sep_token_id}
    asked = labels != prose.UNASKED
    assert torch.equal(asked, shown == tokenizer.mask_token_id)
    assert float(asked.float().mean()) == pytest.approx(prose.MASKED, abs=0.05)
    restored = torch.where(asked, labels, shown)[:, 1:-1]
    whole = tokenizer.eos_token.join([*text, ""])
    assert tokenizer.decode(restored[0]) in whole


def test_the_first_lessons_of_a_masked_model_look_only_back() -> None:
    spec = EMBEDDED["bert"]
    model, batch = build(spec).eval(), next(prose.masked_tokens(spec, seed=0).first)
    ids = batch["input_ids"]
    assert torch.equal(batch["labels"][:, :-1], ids[:, 1:])
    for weight in model.parameters():
        weight.data.add_(0.05)  # of what begins with nothing too
    changed = {**batch, "input_ids": ids.index_fill(1, torch.tensor([9]), 7)}
    with torch.inference_mode():
        before, after = (model(**each).logits for each in (batch, changed))
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_heads_of_an_encoder_begin_at_the_tokens_beside_each() -> None:
    spec = EMBEDDED["bert"]
    model = build(spec)
    positions = model.bert.embeddings.position_embeddings.weight
    x = torch.nn.functional.layer_norm(positions, positions.shape[1:])
    attention = model.bert.encoder.layer[1].attention.self
    heads = [linear(x).unflatten(-1, (4, -1)) for linear in (attention.query, attention.key)]
    scores = torch.einsum("ihd,jhd->hij", *heads) / 48**0.5
    for head, offset in enumerate(OFFSETS):
        inside = range(2, len(x) - 2)
        found = scores[head].argmax(-1)
        assert [int(found[i]) - i for i in inside] == [offset] * len(inside)
    assert not positions.requires_grad


DTYPE = torch.float32


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_gives_the_same_weights(name: str) -> None:
    spec = EMBEDDED[name]
    two_steps = partial(train, spec, device=CPU, threads=1, dtype=DTYPE, progress=2 / spec.steps())
    (first, _, record), (again, _, _), (other, _, _) = (two_steps(seed) for seed in (0, 0, 1))
    assert record.tokens == 2 * spec.batch_tokens
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    begun = (next(model.parameters()) for model in (first, other))
    assert not torch.equal(*begun)
    assert record.final_loss_nats > 0
    assert not getattr(first.config, "output_router_logits", False)


def test_a_snapshot_is_what_the_whole_training_had_then(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(EMBEDDED["dense"].of_width(24), tokens=4 * 256, batch_tokens=256)
    run = partial(train, spec, 0, CPU, threads=1, dtype=DTYPE)
    begun: list[list[torch.Tensor]] = []
    set_rates = training._set_rates

    def kept(optimisers: list[torch.optim.Optimizer], *rest: Any) -> None:
        groups = [group for each in optimisers for group in each.param_groups]
        begun.append([p.detach().clone() for group in groups for p in group["params"]])
        set_rates(optimisers, *rest)

    monkeypatch.setattr(training, "_set_rates", kept)
    _, _, record = run()
    assert record.tokens == spec.tokens
    (untrained, _, nothing), (snapshot, _, _) = (run(progress=share) for share in (0, 0.5))
    assert (nothing.tokens, nothing.final_loss_nats) == (0, None)
    for model, expected in ((untrained, begun[0]), (snapshot, begun[2])):
        assert sorted(float(p.double().norm()) for p in model.parameters()) == sorted(
            float(p.double().norm()) for p in expected
        )


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_widths_have_sizes_in_proportion(name: str) -> None:
    spec = EMBEDDED[name]
    assert spec.of_width(spec.width) == spec
    assert spec.width_step == (8 if name == "vit" else 24)  # twice the heads; thirds of 192
    architecture, wider = (
        architecture_of(each.config, name) for each in (spec, spec.of_width(2 * spec.width))
    )
    for layer in range(architecture.layers):
        one, other = architecture.shape(layer), wider.shape(layer)
        assert other.heads == one.heads
        for module, shape in one.modules.items():
            assert other.modules[module].numel == 4 * shape.numel
