"""MoBE's code ends no lower than our fit of its bases, whose start is its own."""

from __future__ import annotations

import pytest
import torch
from support.layers import relative
from support.oracle import DATA2, needs_golden, tensor2_of
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.linalg.mobe import linear_start
from tensorpress.methods.mobe import Spec, decompose
from tensorpress.methods.svd import Spec as SVD

pytestmark = needs_golden

ALLOWED = {"experts": 1.05, "basis_experts": 2.5, "block_experts": 2.5}
"""Our error over theirs: the problem is not convex."""


def start_error(stack: Tensor, rank: int, bases: int) -> float:
    """With each expert's best factor for its basis."""
    found, mix = linear_start(stack, rank, bases)
    mixed = torch.einsum("em,mri->eri", mix, found)
    left = stack.double() @ torch.linalg.pinv(mixed, rtol=1e-9)
    return relative(left @ mixed, stack)


@pytest.mark.parametrize("number", range(8))
def test_errors_are_at_most_the_published_code_s(number: int) -> None:
    case = DATA2["mobe"][number]
    stack = tensor2_of(case["input"])
    start = start_error(stack, case["rank"], case["bases"])
    assert start == pytest.approx(case["one_hot_linear_start_rel_err"], rel=1e-6, abs=1e-6)
    settings = {name: case[name] for name in ("rank", "bases", "activation")}
    spec = Spec(method="mobe", steps=case["epochs"] // 2, **settings)
    shape = ModuleShape(*stack.shape[1:], len(stack))
    layer = LayerShape(1, 1, 1, 1, {"experts.up": shape})
    (factors,) = decompose({"experts.up": stack}, layer, spec, None)
    assert factors.stored_values == case["values"]
    assert shape.numel == case["dense_values"]
    error = relative(factors.store.stacked(), stack)
    kind = case["input"].partition("(")[0]
    assert error <= ALLOWED[kind] * case["trained_rel_err"], (error, case)
    svd = SVD(method="svd", budget={"saved": 1 - case["values"] / case["dense_values"]})
    assert svd.rank_of("experts.up", shape) == case["separate_svd_rank_same_values"]


def test_storage_of_published_models() -> None:
    for case in DATA2["storage_from_shapes"]["mobe"]:
        inner, hidden, experts = {
            "qwen3-30b-a3b": (768, 2048, 128),
            "gpt-oss-20b": (2880, 2880, 32),
        }[case["model"]]
        shape = ModuleShape(inner, hidden, experts)
        layer = LayerShape(1, 1, 1, 1, {"experts.gate": shape})
        spec = Spec(method="mobe", rank=case["rank"], bases=case["bases"])
        if case["saved_percent_of_experts"] < 0:
            with pytest.raises(Exception, match=r"rank: 2880 is above the limit at experts\.gate"):
                spec.check(layer, "experts")
            continue
        (layout,) = spec.layouts(layer, "experts")
        with torch.device("meta"):
            stored = sum(value.numel() for value in layout.build().parameters())
        # gate and up in bases, down dense
        assert 2 * stored + shape.numel == case["expert_values_layer"]
