"""Sparse cores against closed forms: entries that go, the dense core, one weighed matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.layers import HIDDEN, INNER, layer, relative, weights_of
from torch import Tensor

from tensorpress.errors import TensorpressError
from tensorpress.files.storage import stored_tensors
from tensorpress.methods import svd, tucker_qkvo
from tensorpress.methods.factors import Factors
from tensorpress.methods.sparse_tucker import Spec, decompose


def of(**settings: Any) -> Spec:
    return Spec.model_validate({"method": "sparse_tucker", **settings})


def attention(kv_heads: int = 4, **settings: Any) -> tuple[list[Factors], dict[str, Tensor]]:
    shape = layer(kv_heads)
    weights = weights_of("attention", shape)
    return decompose(weights, shape, of(**settings), None), weights


def square_error(factors: Factors, weights: dict[str, Tensor]) -> float:
    pairs = ((factors.store.dense(k), weights[m]) for k, m in enumerate(factors.modules))
    return sum(float((found - weight).double().square().sum()) for found, weight in pairs)


def test_entries_that_go_cost_their_squares() -> None:
    ranks = {"stream": 14, "own": 5}
    (whole,), weights = attention(ranks=ranks, share=0.0)
    (sparse,), _ = attention(ranks=ranks, share=0.7)
    entries = whole.store.core.stacked().double().square().flatten().sort().values
    gone = float(entries[: round(0.7 * len(entries))].sum())
    lost = square_error(sparse, weights) - square_error(whole, weights)
    assert lost == pytest.approx(gone, rel=1e-4)


def test_the_whole_core_is_that_of_tensorllm() -> None:
    (ours,), weights = attention(ranks={"stream": 9, "own": 3}, share=0.0)
    theirs = tucker_qkvo.Spec.model_validate(
        {"method": "tucker_qkvo", "ranks": {"hidden": 9, "head_dim": 3, "stack": 4}}
    )
    (same,) = tucker_qkvo.decompose(weights, layer(), theirs, None)
    assert ours.modules == same.modules
    for index in range(4):
        assert relative(ours.store.dense(index), same.store.dense(index)) < 1e-5


def test_of_one_weighed_matrix_few_entries_are_its_svd() -> None:
    """Its core is diagonal, so that what stays are the largest singular values."""
    shape = layer()
    weights = weights_of("ffn", shape)
    moments = {}
    for module, weight in weights.items():
        inputs = torch.randn(200, weight.shape[1]) * torch.logspace(0, -1, weight.shape[1])
        moments[module] = inputs.mT @ inputs / len(inputs)
    moments["ffn.up"] = moments["ffn.gate"]
    ranks, rank = {"stream": HIDDEN, "own": HIDDEN}, 5
    spec = of(ranks=ranks, share=1 - rank / HIDDEN**2, whiten="input")
    made = {each.modules: each.store for each in decompose(weights, shape, spec, moments)}
    assert set(made) == {("ffn.gate", "ffn.up"), ("ffn.down",)}
    whitened = svd.Spec(method="svd", rank=rank, whiten="input")
    expected = svd.decompose(weights, shape, whitened, moments)
    (down,) = (each.store for each in expected if each.modules == ("ffn.down",))
    assert relative(made["ffn.down",].dense(0), down.dense(0)) < 1e-4


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_budget_counts_places(share: float) -> None:
    """Those of most of the core are masks, those of a few entries coordinates."""
    factors, weights = attention(kv_heads=2, budget={"saved": 0.4}, share=share)
    assert [each.modules for each in factors] == [
        ("attention.q", "attention.o"),
        ("attention.k", "attention.v"),
    ]
    for each in factors:
        bits = sum(
            t.numel * (t.bits or 16) for t in stored_tensors(each.store, 0, replaced=True).values()
        )
        dense = 16 * sum(weights[module].numel() for module in each.modules)
        assert 0.9 * 0.6 * dense < bits <= 0.6 * dense


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(TensorpressError, match=r"ranks\.own: 7 is above .*; allowed: 1 to 6"):
        of(ranks={"stream": 4, "own": 7}).check(layer(), "attention")
    wide = of(ranks={"stream": 4, "own": INNER}, share=0.9999)
    with pytest.raises(TensorpressError, match=r"share: 0\.9999 leaves nothing of the core of"):
        wide.check(layer(), "ffn")
