"""What is known of a model without its weights."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from support.families import SIZES
from transformers import AutoConfig

from tensorpress.architectures.families.table import FAMILIES, architecture_of
from tensorpress.errors import TensorpressError
from tensorpress.methods.svd import Spec as Svd
from tensorpress.methods.tt_sparse import Spec as SparseTT

MIXED: dict[str, Any] = {
    "model_type": "qwen2_moe", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 6, "vocab_size": 96,
    "decoder_sparse_step": 2,
}  # fmt: skip
"""Experts in layers 1 and 3, an FFN in 0 and 2."""


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_it_is_sent_to_jobs_whole(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=96, **SIZES[model_type]).to_dict()
    planned = architecture_of(config, "test")
    shapes = planned.shapes
    sent = pickle.loads(pickle.dumps(planned))
    assert sent == planned
    assert hash(sent) == hash(planned)
    assert sent.shapes == shapes
    assert sent.family.has_experts is planned.family.has_experts


def test_equal_configs_are_one() -> None:
    longer = architecture_of({**MIXED, "num_hidden_layers": 6}, "test")
    again = architecture_of(dict(reversed(MIXED.items())), "test")
    assert len({architecture_of(MIXED, "test"), again, longer}) == 2


def test_layers_that_are_alike() -> None:
    made = architecture_of(MIXED, "test")
    assert (made.layers, made.outer, made.expert_layers) == (4, 4, (1, 3))
    assert made.representatives == (0, 1, 0, 1, 4)
    places = [{"layer": 2, "row": 0, "column": 0}]
    tells = SparseTT(method="tt_sparse", order=3, rank=2, super_weights=places)
    assert made.representative(3, Svd(method="svd", rank=2)) == 1
    assert made.representative(3, tells) == 3
    assert "embedding" in made.shape(made.outer).modules
    assert {"embedding", "experts.up", "ffn.up"} <= set(made.modules)


def test_a_tie_is_known_where_the_config_is_silent() -> None:
    def tied(**config: Any) -> bool:
        return architecture_of(config, "test").tied

    assert tied(model_type="gpt2")
    assert not tied(model_type="llama")
    assert not tied(model_type="gpt2", tie_word_embeddings=False)


@pytest.mark.parametrize("value", [-1, 0, "64", 1.5])
def test_a_size_that_is_none_is_named(value: object) -> None:
    message = rf"^test: config\.json: num_attention_heads: {value!r} is not allowed"
    with pytest.raises(TensorpressError, match=message):
        architecture_of({**MIXED, "num_attention_heads": value}, "test")


def test_a_size_that_is_missing_is_named() -> None:
    config = {name: value for name, value in MIXED.items() if name != "hidden_size"}
    with pytest.raises(TensorpressError, match=r"config\.json: hidden_size is missing"):
        _ = architecture_of(config, "test").shapes
