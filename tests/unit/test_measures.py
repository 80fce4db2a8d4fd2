"""Perplexity, n-gram, routing, items, moments and storage against closed forms."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.stages import calibrated
from support.workspace import SHARED, tiny_llama, tiny_text, tiny_tokenizer
from transformers import LlamaForCausalLM

from tensorpress.analysis import moe
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.sites import moment_values, passes
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.items import cloze_items, last_word_items
from tensorpress.evaluation.ngram import KneserNey, window_nats
from tensorpress.evaluation.perplexity import perplexity
from tensorpress.evaluation.routing import routing
from tensorpress.files.storage import StoredTensor, bits_saved
from tensorpress.objectives import registry
from tensorpress.objectives.windows import token_windows
from tensorpress.running.oom import CPU

NEXT_TOKEN = registry.load("causal_lm")


def constant(logits: float) -> LlamaForCausalLM:
    """A model whose logits all are one value."""
    model = tiny_llama(1).eval()
    model.lm_head.weight.data.fill_(logits)
    return model


def test_uniform_model_has_perplexity_of_the_vocabulary() -> None:
    tokenizer = tiny_tokenizer()
    windows = token_windows(tokenizer, tiny_text(), 32, 5)
    result = perplexity(constant(0.0), NEXT_TOKEN, windows, 2, CPU)
    assert result.perplexity == pytest.approx(300)
    assert result.tokens == 5 * 31
    assert result.perplexity_stderr == pytest.approx(0, abs=1e-4)
    assert result.window_nats == pytest.approx([math.log(300)] * 5)
    assert result.bits_per_byte(700) == pytest.approx(result.tokens * math.log2(300) / 700)


def test_one_window_has_no_standard_error() -> None:
    windows = token_windows(tiny_tokenizer(), tiny_text(), 32, 2)
    model = tiny_llama(1).eval()
    alone, both = (perplexity(model, NEXT_TOKEN, windows[:n], 2, CPU) for n in (1, 2))
    assert (len(alone.window_nats), alone.perplexity_stderr) == (1, None)
    losses = [perplexity(model, NEXT_TOKEN, window[None], 1, CPU).nats for window in windows]
    assert both.window_nats == pytest.approx(losses, rel=1e-6)
    # of two values the standard error of the mean is half their distance
    error = both.perplexity * abs(losses[0] - losses[1]) / 2
    assert both.perplexity_stderr == pytest.approx(error, rel=1e-4)


def test_windows_are_a_partition_without_the_tail() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(tiny_text())["input_ids"]
    windows = token_windows(tokenizer, tiny_text(), 64)
    assert windows.flatten().tolist() == ids[: len(ids) // 64 * 64]


def test_short_corpus_and_infinite_loss_are_errors() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(TensorpressError, match="too few for one window of 64"):
        token_windows(tokenizer, "short", 64)
    windows = token_windows(tokenizer, tiny_text(), 32, 3)
    with pytest.raises(TensorpressError, match="window 0 of 3"):
        perplexity(constant(float("nan")), NEXT_TOKEN, windows, 2, CPU)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_is_a_distribution(order: int) -> None:
    ids = torch.randint(7, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    model = KneserNey(ids, order, 9)
    for history in [(), (1,), (1, 2), (8,), (8, 8)]:
        total = sum(
            model.probability(history[-(order - 1) :] if order > 1 else (), t) for t in range(9)
        )
        assert total == pytest.approx(1)


def test_kneser_ney_learns_a_cycle_and_counts_contexts() -> None:
    ids = [0, 1, 2, 3] * 100
    assert KneserNey(ids, 3, 4).probability((1, 2), 3) > 0.98
    # 5 follows only 4, often; 6 follows many tokens, rarely: continuation counts prefer 6
    ids = [4, 5] * 50 + [0, 6, 1, 6, 2, 6, 3, 6]
    model = KneserNey(ids, 2, 10)
    assert Counter(ids)[5] > Counter(ids)[6]
    assert model.probability((9,), 6) > model.probability((9,), 5)


def test_ngram_scores_all_but_the_first_token() -> None:
    ids = [0, 1] * 50
    (nats,) = window_nats(ids, [[0, 1, 0, 1]], 2, 2)
    assert 0 < nats < math.log(2) / 2


def test_routing_as_planted(moe_directory: Path) -> None:
    """Always the same two experts of four, one of each group; all are as likely."""
    architecture = Checkpoint.open(moe_directory).architecture
    model = load_model(moe_directory, CPU)
    windows = torch.randint(300, (4, 32))
    for layer in model.model.layers:
        layer.mlp.gate.weight.data.zero_()
        layer.mlp.gate.forward = lambda x: (
            None,
            torch.full((len(x), 2), 0.5),
            torch.tensor([[0, 3]]).expand(len(x), 2),
        )
    for found in routing(model, architecture, windows, 2, CPU, 2).values():
        measured = dict(found.measures(windows.flatten()))
        assert measured == pytest.approx(
            {
                "effective_experts": 2,
                "load_variation": 1,
                "busiest_share": 0.5,
                "starved_experts": 2,
                "token_information_nats": 0,
                "group_variation": 0,
                "leading_in_group": 0.5,
                "spread_over_groups": 1,
            },
            abs=1e-9,
        )


def test_what_groups_and_tokens_show() -> None:
    probabilities = torch.tensor([[0.1, 0.1, 0.6, 0.2], [0.3, 0.1, 0.3, 0.3]])
    assert moe.group_masses(probabilities, 2).flatten().tolist() == pytest.approx(
        [0.2, 0.8, 0.4, 0.6]
    )
    leading = moe.leading_in_group(probabilities, 2).flatten().tolist()
    assert leading == pytest.approx([0.5, 0.75, 0.75, 0.5])
    chosen = torch.tensor([[0, 1], [0, 2], [3, 1], [2, 3]])
    assert moe.spread_over_groups(chosen, 4, 2).tolist() == [False, True, True, False]
    # the expert says which of two tokens it is, and nothing more
    ids = torch.tensor([5, 5, 9, 9])
    assert moe.token_information_nats(torch.tensor([[0], [0], [1], [1]]), ids, 4) == pytest.approx(
        math.log(2)
    )
    assert moe.token_information_nats(torch.tensor([[0], [1], [0], [1]]), ids, 4) == pytest.approx(
        0
    )


def test_items_are_reproducible_and_true() -> None:
    text = tiny_text()
    items = cloze_items(text, 20, 10, 5, seed=1)
    assert items == cloze_items(text, 20, 10, 5, seed=1)
    assert items != cloze_items(text, 20, 10, 5, seed=2)
    flat = " ".join(text.split())
    for item in items:
        assert len(set(item.choices)) > 1
        assert f"{item.context} {item.choices[item.label]}" in flat
    assert {item.label for item in items} == {0, 1, 2, 3}
    for word in last_word_items(text, 20, 30, seed=1):
        assert word.word in word.context.split()
        assert f"{word.context} {word.word}" in flat
    with pytest.raises(TensorpressError, match="cloze: the corpus has 0 paragraphs"):
        cloze_items("too short", 4, 10, 5, seed=0)


def moments(directory: Path, batch: int, at_once: int = 10**6) -> list[dict[str, torch.Tensor]]:
    windows = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))
    return calibrated(directory, windows, batch, values_at_once=at_once)


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_moments_do_not_depend_on_the_passes_they_take(
    kind: str, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(f"{kind}_directory")
    for once, split in zip(moments(directory, 2), moments(directory, 2, at_once=1), strict=True):
        assert once.keys() == split.keys()
        assert all(torch.equal(value, split[name]) for name, value in once.items())


def test_a_pass_takes_the_layers_that_fit() -> None:
    config = tiny_llama(layers=5).config.to_dict()
    shapes = architecture_of(config, "test").shapes[:5]
    each = 3 * 32**2 + 48**2
    assert moment_values(shapes[0]) == each
    assert passes(shapes, 2 * each) == [range(0, 2), range(2, 4), range(4, 5)]
    assert passes(shapes, 1) == [range(layer, layer + 1) for layer in range(5)]
    assert passes(shapes) == [range(5)]


def test_moments_are_those_of_the_inputs(llama_directory: Path) -> None:
    model = load_model(llama_directory, CPU)
    seen: list[torch.Tensor] = []
    down = model.model.layers[1].mlp.down_proj
    down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    windows = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model(input_ids=windows)
    rows = seen[0].flatten(0, 1).double()
    found = moments(llama_directory, batch=2)[1]
    torch.testing.assert_close(found["ffn.down"].double(), rows.mT @ rows / len(rows))
    assert int(found["ffn.down.tokens"]) == 6 * 16
    modules = Checkpoint.open(llama_directory).architecture.shape(1).modules
    assert set(found) == {
        f"{site}{end}"
        for site in ("attention.q", "attention.o", "ffn.gate", "ffn.down")
        for end in ("", ".tokens")
    } | {f"{module}.gradient" for module in modules} | {"layer.angle"}


def test_gradients_are_those_of_the_outputs(llama_directory: Path) -> None:
    model = load_model(llama_directory, CPU)
    outputs: list[torch.Tensor] = []
    up = model.model.layers[1].mlp.up_proj
    up.register_forward_hook(lambda _, inputs, y: outputs.append(y))
    windows = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=windows).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT, windows[:, 1:], reduction="sum")
    (gradient,) = torch.autograd.grad(losses, outputs)
    found = moments(llama_directory, batch=2)[1]["ffn.up.gradient"]
    torch.testing.assert_close(found, gradient.flatten(0, 1).square().mean(0))


def test_expert_moments_are_of_the_tokens_they_receive(moe_directory: Path) -> None:
    whole, parts = moments(moe_directory, 6), moments(moe_directory, 2)
    for layer in (0, 1):
        tokens = whole[layer]["experts.gate.tokens"]
        assert int(tokens.sum()) == 2 * 6 * 16  # two experts per token
        assert torch.equal(tokens, whole[layer]["experts.down.tokens"])
        assert whole[layer]["experts.gate"].shape == (4, 32, 32)
        assert whole[layer]["experts.down"].shape == (4, 24, 24)
        for name, value in whole[layer].items():
            torch.testing.assert_close(parts[layer][name], value)


def test_bits_saved_by_hand() -> None:
    embedding = StoredTensor((10, 4), None, embedding=True)
    head = StoredTensor((10, 4), None)
    plain = StoredTensor((4, 4), 0)
    old = StoredTensor((4, 8), 1, replaced=True)
    norm = StoredTensor((8,), 1)
    new = StoredTensor((4, 2), 1, replaced=True)
    saved = bits_saved([embedding, head, plain, old, norm], [embedding, head, plain, norm, new], 16)
    assert (saved.dense_bits, saved.stored_bits) == (16 * 136, 16 * 112)
    assert saved.modules_percent == pytest.approx(75)
    assert saved.blocks_percent == pytest.approx(100 * 24 / 40)
    assert saved.without_embeddings_percent == pytest.approx(100 * 24 / 96)
    assert saved.with_embeddings_percent == pytest.approx(100 * 24 / 136)


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="../shared/golden is missing")
def test_bits_of_the_golden_summary() -> None:
    """Two layers of the tiny Llama, Tucker of attention at hidden rank 16: exact bits."""
    entry = json.loads((SHARED / "golden/golden.json").read_text())["storage_summary_tiny_llama"][0]
    shapes = {"q": (96, 96), "k": (96, 96), "v": (96, 96), "o": (96, 96)}
    ffn = {"gate": (288, 96), "up": (288, 96), "down": (96, 288), "n1": (96,), "n2": (96,)}
    common = [StoredTensor((512, 96), None, embedding=True), StoredTensor((512, 96), None)]
    common += [StoredTensor((96,), None)]
    common += [StoredTensor(s, layer) for layer in range(4) for s in ffn.values()]
    common += [StoredTensor(s, layer) for layer in (0, 3) for s in shapes.values()]
    dense = [StoredTensor(s, layer, replaced=True) for layer in (1, 2) for s in shapes.values()]
    factors = [(96, 16), (16, 4), (4, 2), (16, 6, 4, 2)]
    stored = [StoredTensor(s, layer, replaced=True) for layer in (1, 2) for s in factors]
    saved = bits_saved([*common, *dense], [*common, *stored], 16)
    assert saved.dense_bits == entry["overall_with_embeddings_dense_bits"]
    assert saved.stored_bits == entry["overall_with_embeddings_storage_bits"]
    assert saved.without_embeddings_percent == pytest.approx(entry["bits_saved_no_emb_pct"])
    modules = entry["affected_modules_storage_bits"] / entry["affected_modules_dense_bits"]
    assert saved.modules_percent == pytest.approx(100 * (1 - modules))
    blocks = entry["affected_blocks_storage_bits"] / entry["affected_blocks_dense_bits"]
    assert saved.blocks_percent == pytest.approx(100 * (1 - blocks))
