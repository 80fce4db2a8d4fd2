"""Losses in chunks of tokens against those of all logits together, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import CAUSAL, SIZES
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tensorpress.files import logits
from tensorpress.objectives import registry
from tensorpress.objectives.token_losses import likeliest
from tensorpress.running.placement import dispatch, withdraw

IDS = torch.randint(96, (3, 17), generator=torch.Generator().manual_seed(0))
next_token_losses = registry.load("causal_lm").losses


def tiny(family: str, **settings) -> PreTrainedModel:
    """A random model whose logits are large enough for a soft cap to show."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=96, **SIZES[family], **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    return model


def plain(model: PreTrainedModel) -> torch.Tensor:
    """Cross entropy of all logits together."""
    found = model(input_ids=IDS, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return cross_entropy(found, IDS[:, 1:].flatten(), reduction="none").view(3, 16)


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("family", CAUSAL)
def test_chunks_give_the_losses_and_gradients_of_all_logits(family: str, chunk: int) -> None:
    model = tiny(family)
    expected = plain(model)
    found = next_token_losses(model, IDS, chunk=chunk)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (0.5 * expected.sum()).backward()
    whole = gradients(model)
    next_token_losses(model, IDS, weight=0.5, chunk=chunk)
    parts = gradients(model)
    assert parts.keys() == whole.keys()
    scale = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=3e-6 * scale, msg=name)
    assert torch.equal(plain(model), expected)  # the model is as it was


def test_the_soft_cap_of_gemma_2_counts() -> None:
    capped, plain_model = tiny("gemma2"), tiny("gemma2", final_logit_softcapping=None)
    difference = next_token_losses(capped, IDS) - next_token_losses(plain_model, IDS)
    assert float(difference.abs().max()) > 1


@pytest.mark.parametrize("on", [False, True])
def test_recovery_minimises_what_transformers_calls_the_loss(on: bool) -> None:
    """The mean over tokens, with the router's loss where the config asks for it."""
    model = tiny("mixtral", output_router_logits=on)
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    whole = gradients(model)
    found = next_token_losses(model, IDS, 1 / 48, auxiliary=True, chunk=7)
    assert (float(loss.detach() - found.mean()) > 1e-3) == on
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_chunks_give_the_likeliest_tokens_of_all_logits(chunk: int | None) -> None:
    model = tiny("gemma2")
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[:, :-1].argmax(-1)
    assert torch.equal(likeliest(model, IDS, slice(0, -1), chunk), expected)


def test_a_trained_head_learns_from_every_chunk() -> None:
    model = tiny("llama").requires_grad_(False)
    head = model.get_output_embeddings().requires_grad_(True)
    plain(model).sum().backward()
    expected = head.weight.grad.clone()
    model.zero_grad()
    next_token_losses(model, IDS, weight=1.0, chunk=5)
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-4, atol=1e-4)


def test_spread_models_bring_their_weights(tmp_path: Path) -> None:
    model = tiny("gemma2")
    expected = plain(model).detach()
    dispatch(model, {"model": "cpu", "lm_head": "disk"}, "cpu", tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(next_token_losses(model, IDS, chunk=7), expected)
        torch.testing.assert_close(plain(model), expected)
    withdraw(model)


@pytest.mark.parametrize("vocabulary", [300, 262_144, 10**9])
def test_chunks_take_the_stated_memory(vocabulary: int) -> None:
    tokens = logits.tokens_at_once(vocabulary)
    taken = logits.bytes_of(10**9, vocabulary)
    assert taken == 4 * logits.COPIES * vocabulary * tokens
    assert taken <= logits.LOSS_BYTES or tokens == 1
    assert taken + 4 * logits.COPIES * vocabulary > logits.LOSS_BYTES
    assert logits.bytes_of(1, vocabulary) == 4 * logits.COPIES * vocabulary
