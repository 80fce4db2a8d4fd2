"""Greedy continuations of prompts, with the log-probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt: its text without special tokens, and nats per new token."""

    text: str
    log_probabilities: tuple[float, ...]
    """One per new token, the end-of-text token included."""


@torch.inference_mode()
def greedy_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    new_tokens: int,
    batch: int,
    device: torch.device,
) -> list[Continuation]:
    """The likeliest next token, ``new_tokens`` times or to the end of the text, for each prompt.

    Prompts of a batch are padded on the left. That all of it fits the model's positions is asked
    before (``room.check_room``).
    """
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    end = model.generation_config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    # every field that could bend the choice is set: what it leaves out, the model's own fills in
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=end,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    generator: Any = model
    found = []
    for start in tqdm(range(0, len(encoded), batch), desc="generate", unit="batch", leave=False):
        chosen = encoded[start : start + batch]
        width = max(map(len, chosen))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in chosen], device=device)
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in chosen], device=device
        )
        made: Any = generator.generate(
            input_ids=ids, attention_mask=mask, generation_config=settings
        )
        logits = torch.stack(made.logits, 1).double()
        new = made.sequences[:, width:]
        scores = logits.log_softmax(-1).gather(-1, new[..., None])[..., 0]
        for row, score in zip(new.tolist(), scores.tolist(), strict=True):
            last = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
            text = str(tokenizer.decode(row[: last + 1], skip_special_tokens=True))
            found.append(Continuation(text, tuple(score[: last + 1])))
    return found
