"""Task ``sentence_fidelity``: embeddings of sentences, of a compressed encoder and the dense one.

What a user of such a model loses shows in two numbers: the cosine of an embedding with that of the
dense model, which matters where both meet in one index, and how often a sentence's successor in the
text is the nearest of all, which needs no dense model to be told.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.sentence_fidelity import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.protocols import tokenizer_sha256
from tensorpress.evaluation.sentences import sentence_pairs
from tensorpress.evaluation.spread import standard_error
from tensorpress.keying.keys import key
from tensorpress.objectives.encoding import embeddings
from tensorpress.objectives.frame import EDGES, NEEDED, check_tokenizer, framed


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """``cosine`` of all sentences, ``recall_at_1`` of the pairs, and what of the dense is lost."""
    pairs = sentence_pairs(job.text("text"), spec.pairs, spec.least_words)
    tokenizer = load_tokenizer(job.run_directory)
    check_tokenizer(tokenizer, NEEDED, "task sentence_fidelity", "encoders")
    sentences = [first for first, _ in pairs] + [second for _, second in pairs]
    given = tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [framed(tokenizer, torch.tensor(each[: spec.window - EDGES])) for each in given]

    def embedded(model: PreTrainedModel) -> Float[Tensor, "sentences hidden"]:
        return job.with_fallback(
            "sentence_fidelity", model, lambda m, d, b: _embedded(m, ids, d, b), spec.batch
        )

    dense = embedded(job.model(job.dense))
    compressed = embedded(job.model(job.run_directory))
    protocol = key(
        text_sha256=hashlib.sha256(job.text("text").encode()).hexdigest(),
        tokenizer_sha256=tokenizer_sha256(job.run_directory),
        dtype=job.dtype,
        settings=spec.model_dump(exclude={"corpus", "batch"}),
    )
    words = f"{len(pairs)} pairs of sentences of {spec.window} tokens at most; {job.dtype}"
    before, after = _found(dense), _found(compressed)
    rows = [
        _row("cosine", torch.linalg.vecdot(dense, compressed), words, protocol),
        _row("recall_at_1", after, words, protocol, "compressed"),
        _row("recall_at_1_lost", before - after, words, protocol),
    ]
    # without its pairs, which would stand beside those of the run under one name
    known = _row("recall_at_1", before, words, protocol, "dense")
    return [*rows, replace(known, observations=None)]


@torch.inference_mode()
def _embedded(
    model: PreTrainedModel, ids: list[Tensor], device: torch.device, batch: int
) -> Float[Tensor, "sentences hidden"]:
    """Embeddings in the order of the sentences; batches are of equal lengths as far as can be."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = []
    for start in range(0, len(order), batch):
        own = [ids[i] for i in order[start : start + batch]]
        padded = pad_sequence(own, batch_first=True)
        lengths = torch.tensor([len(each) for each in own])
        real = torch.arange(padded.shape[1]) < lengths[:, None]
        parts.append(embeddings(model, padded.to(device), real.to(device)).cpu())
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _found(embedded: Float[Tensor, "sentences hidden"]) -> Float[Tensor, " pairs"]:
    """1 for each first sentence whose second is the nearest of all second ones, else 0."""
    first, second = embedded.chunk(2)
    return ((first @ second.mT).argmax(1) == torch.arange(len(first))).double()


def _row(metric: str, each: Tensor, words: str, protocol: str, state: str | None = None) -> EvalRow:
    values = each.double().tolist()
    return EvalRow(
        metric=metric,
        value=sum(values) / len(values),
        state=state,
        stderr=standard_error(values),
        stderr_samples=len(values),
        samples=len(values),
        observations=tuple(values),
        version=words,
        protocol=protocol,
    )
