"""Losses and likeliest tokens, in chunks of tokens: all logits never exist together.

At a vocabulary of 262,144 the logits of a batch take gigabytes, so a model's own forward is called
once a chunk, with its decoder stood for by hidden states that the decoder gave once. Whatever a
model does to logits behind its head (Gemma 2's soft cap, code of its own) so stays in place, and
dispatched models bring their weights as ever. Cross entropy reads rows of ``(tokens, vocabulary)``:
over ``(batch, vocabulary, tokens)`` it is five times slower (benchmarks/losses.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import PreTrainedModel

from tensorpress.files.logits import tokens_at_once


def token_losses(
    model: PreTrainedModel,
    ids: Int[Tensor, "windows window"],
    asked: slice,
    targets: Int[Tensor, "windows predicted"],
    weight: float = 0.0,
    auxiliary: bool = False,
    chunk: int | None = None,
    teacher: Teacher | None = None,
) -> Float[Tensor, "windows predicted"]:
    """Loss in nats, float32, of ``targets`` by what the model says at the positions ``asked``.

    With a ``weight``, ``weight * losses.sum()`` is backpropagated on the way; with ``auxiliary``
    also ``weight`` times what transformers adds to the loss of every token of a mixture whose
    config has ``output_router_logits``. What is returned has no graph. ``chunk``: tokens at a
    time, in place of those that ``logits.LOSS_BYTES`` allows. With a ``teacher``, what is
    backpropagated is its loss; what is returned stays that of ``targets``.
    """
    wanted, found, gradients = targets.flatten(), [], []
    chunk = chunk or tokens_at_once(model.config.get_text_config().vocab_size)
    learns = teacher if weight else None
    with _after_the_decoder(model, ids) as (states, rest), _taught(learns, ids, asked) as taught:
        rows = states[:, asked].flatten(0, 1)
        for start, row in zip(range(0, len(rows), chunk), rows.split(chunk), strict=True):
            part = row.detach().requires_grad_(bool(weight) and rows.requires_grad)
            output = rest(part[None])
            logits = output.logits[0].float()
            losses = cross_entropy(logits, wanted[start : start + chunk], reduction="none")
            if weight:
                learnt = learns.loss(logits, taught(start, chunk), losses) if learns else losses
                (weight * learnt.sum()).backward()
                gradients.append(part.grad)
            found.append(losses.detach())
    if rows.requires_grad and weight:
        ends, given = [rows], [torch.cat(gradients)]
        if auxiliary and getattr(output, "aux_loss", None) is not None:
            share: Any = model.router_aux_loss_coef
            ends.append(weight * len(wanted) * share * output.aux_loss)
            given.append(torch.ones_like(ends[1]))
        torch.autograd.backward(ends, given)
    return torch.cat(found).view(len(ids), -1)


def likeliest(
    model: PreTrainedModel,
    ids: Int[Tensor, "windows window"],
    asked: slice,
    chunk: int | None = None,
) -> Int[Tensor, "windows predicted"]:
    """The token that the model ranks first at each of the positions ``asked``; no gradients.

    ``chunk`` as in ``token_losses``.
    """
    chunk = chunk or tokens_at_once(model.config.get_text_config().vocab_size)
    with torch.no_grad(), _after_the_decoder(model, ids) as (states, rest):
        rows = states[:, asked].flatten(0, 1)
        found = [rest(row[None]).logits[0].argmax(-1) for row in rows.split(chunk)]
    return torch.cat(found).view(len(ids), -1)


@dataclass(frozen=True)
class Teacher:
    """A model whose next-token distribution is learnt (Hinton et al. 2015, section 2)."""

    model: PreTrainedModel
    temperature: float
    share: float
    """Of the divergence in the loss; the rest is that of the text's tokens."""

    def loss(
        self,
        logits: Float[Tensor, "tokens vocabulary"],
        taught: Float[Tensor, "tokens vocabulary"],
        losses: Float[Tensor, " tokens"],
    ) -> Float[Tensor, " tokens"]:
        """``(1 - share) losses + share T^2 KL(taught_T || logits_T)``, a token each."""
        own, theirs = ((each / self.temperature).log_softmax(-1) for each in (logits, taught))
        divergence = kl_div(own, theirs, reduction="none", log_target=True).sum(-1)
        return (1 - self.share) * losses + self.share * self.temperature**2 * divergence


@contextmanager
def _taught(
    teacher: Teacher | None, ids: Tensor, asked: slice
) -> Iterator[Callable[[int, int], Tensor]]:
    """Logits of a teacher at the asked positions, of so many tokens from one on; of none no use."""
    if teacher is None:
        yield lambda *_: ids
        return
    with torch.no_grad(), _after_the_decoder(teacher.model, ids) as (states, rest):
        rows = states[:, asked].flatten(0, 1)

        def logits(start: int, chunk: int) -> Tensor:
            with torch.no_grad():
                found: Tensor = rest(rows[None, start : start + chunk]).logits[0].float()
            return found

        with torch.enable_grad():
            yield logits


@contextmanager
def _after_the_decoder(
    model: PreTrainedModel, ids: Tensor
) -> Iterator[tuple[Tensor, Callable[[Tensor], Any]]]:
    """The decoder's states ``(windows, window, hidden)``, and what the model makes of others."""
    decoder: Any = model.get_decoder()
    if decoder is model:  # Llama 4's class looks for it under a name that it does not have
        decoder = model.model
    output = decoder(input_ids=ids, use_cache=False)
    own = vars(decoder).get("forward")  # accelerate puts one there

    def rest(part: Tensor) -> Any:
        decoder.forward = lambda *_, **__: replace(output, last_hidden_state=part)
        return model(input_ids=ids, use_cache=False)

    try:
        yield output.last_hidden_state, rest
    finally:
        vars(decoder).pop("forward", None)
        if own is not None:
            decoder.forward = own
