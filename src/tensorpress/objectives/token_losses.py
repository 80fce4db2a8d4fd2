"""Losses of predicted tokens, in chunks of tokens: all logits never exist together.

At a vocabulary of 262,144 the logits of a batch take gigabytes, so a model's own forward is called
once a chunk, with its decoder stood for by hidden states that the decoder gave once. Whatever a
model does to logits behind its head (Gemma 2's soft cap, code of its own) so stays in place, and
dispatched models bring their weights as ever. Cross entropy reads rows of ``(tokens, vocabulary)``:
over ``(batch, vocabulary, tokens)`` it is five times slower (benchmarks/losses.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
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
) -> Float[Tensor, "windows predicted"]:
    """Loss in nats, float32, of ``targets`` by what the model says at the positions ``asked``.

    With a ``weight``, ``weight * losses.sum()`` is backpropagated on the way; with ``auxiliary``
    also ``weight`` times what transformers adds to the loss of every token of a mixture whose
    config has ``output_router_logits``. What is returned has no graph. ``chunk``: tokens at a
    time, in place of those that ``logits.LOSS_BYTES`` allows.
    """
    wanted, found, gradients = targets.flatten(), [], []
    chunk = chunk or tokens_at_once(model.config.get_text_config().vocab_size)
    with _after_the_decoder(model, ids) as (states, rest):
        rows = states[:, asked].flatten(0, 1)
        for row, target in zip(rows.split(chunk), wanted.split(chunk), strict=True):
            part = row.detach().requires_grad_(bool(weight) and rows.requires_grad)
            output = rest(part[None])
            losses = cross_entropy(output.logits[0].float(), target, reduction="none")
            if weight:
                (weight * losses.sum()).backward()
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
