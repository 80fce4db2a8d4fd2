"""GPTQ: the published recursion, and fewer errors than rounding to nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.stages import alone
from support.workspace import tiny_params
from torch import Tensor

from tensorpress.config.params import parse
from tensorpress.formats import rounding
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.rounded import rounded
from tensorpress.methods import gptq
from tensorpress.planning.plan import Plan


def output_error(store, weight: Tensor, moment: Tensor) -> float:
    """Root of ``tr(D M D^T)`` over that of the weight: the relative error of the outputs."""
    stack, inputs = weight.double().view(-1, *weight.shape[-2:]), moment.double()
    inputs = inputs.view(-1, *inputs.shape[-2:])
    gap = torch.stack([store.dense(i) for i in range(len(stack))]).double() - stack
    weighed = [((each @ inputs) * each).sum() for each in (gap, stack)]
    return float(weighed[0] / weighed[1]) ** 0.5


@pytest.mark.parametrize(("bits", "group_size"), [(2, 16), (3, None), (4, 48), (8, 16)])
def test_gptq_beats_rounding_on_correlated_inputs(bits: int, group_size: int | None) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 48) @ torch.randn(48, 48) / 7
    weight, moment = torch.randn(40, 48), inputs.mT @ inputs / 400
    spec = gptq.Spec(method="gptq", bits=bits, group_size=group_size)
    (factors,) = gptq.decompose({"ffn.up": weight}, alone(weight), spec, {"ffn.up": moment})
    sizes = {"slices": 1, "out_features": 40, "in_features": 48}
    plain = DenseSlices(**sizes).fill(weight=weight[None])
    nearest = rounded(plain, bits, group_size, torch.bfloat16)
    assert factors.store.state_dict().keys() == nearest.state_dict().keys()
    ours, theirs = (output_error(each, weight, moment) for each in (factors.store, nearest))
    assert ours < 0.85 * theirs


def test_gptq_agrees_with_the_published_recursion() -> None:
    """Algorithm 1 of Frantar et al., column by column with the explicit inverse."""
    torch.manual_seed(0)
    inputs = torch.randn(300, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    weight, moment = torch.randn(7, 20, dtype=torch.float64), inputs.mT @ inputs / 300
    scales = (weight.abs().amax() / rounding.limit(3)).expand(7, 20)
    order = moment.diagonal().argsort(descending=True)
    left, inverse = weight[:, order].clone(), moment[order][:, order]
    inverse = inverse + 0.01 * inverse.diagonal().mean() * torch.eye(20)
    upper = torch.linalg.cholesky(torch.linalg.inv(inverse), upper=True)
    expected = torch.empty_like(left)
    for k in range(20):
        step = (left[:, k] / scales[:, 0]).round().clamp(-3, 3)
        expected[:, order[k]] = step
        error = (left[:, k] - step * scales[:, 0]) / upper[k, k]
        left[:, k:] -= torch.outer(error, upper[k, k:])
    codes = gptq.gptq(weight, scales, moment, 3, 0.01)
    assert torch.equal(codes.double() - 3, expected)


def test_gptq_rounds_experts_without_tokens_to_nearest() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(2, 10, 12), torch.randn(90, 12) @ torch.randn(12, 12)
    moment = torch.stack([torch.zeros(12, 12), inputs.mT @ inputs / 90])
    spec = gptq.Spec(method="gptq", bits=4, group_size=12)
    given = {"experts.up": moment}
    (factors,) = gptq.decompose({"experts.up": weight}, alone(weight), spec, given)
    sizes = {"slices": 2, "out_features": 10, "in_features": 12}
    plain = DenseSlices(**sizes).fill(weight=weight)
    nearest = rounded(plain, 4, 12, torch.bfloat16)
    assert torch.equal(factors.store.dense(0), nearest.dense(0))
    assert not torch.equal(factors.store.dense(1), nearest.dense(1))


def test_gptq_reads_the_calibration(inputs: Path) -> None:
    params = tiny_params()
    params["methods"]["svd"] = {"method": "gptq", "bits": 3}
    plan = Plan(parse(params))
    used = {p.decomposition.spec.method: p.decomposition for p in plan.used_decompositions}
    assert used["gptq"].calibration is not None
    assert used["drop"].calibration is None
