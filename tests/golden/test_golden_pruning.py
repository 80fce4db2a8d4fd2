"""Pruning agrees with the oracle: zeros, errors and masks of the published code."""

from __future__ import annotations

from typing import Any

import pytest
from support.oracle import DATA2, needs_golden, stacked_error, tensor2_of
from support.stages import alone
from torch import Tensor

from tensorpress.methods import sparse
from tensorpress.methods.registry import load

pytestmark = needs_golden
KEPT_HEAD = (3, 24)
"""Rows and columns of the masks that the oracle prints."""
SAMPLE = 256
"""Tokens of a sample: the published Hessian is a mean over samples, not over tokens."""


def moment_of(case: dict[str, Any]) -> Tensor:
    inputs = tensor2_of(case["inputs"])
    return inputs.mT @ inputs / len(inputs)


def output_error(case: dict[str, Any], found: Tensor, weight: Tensor) -> float:
    inputs = tensor2_of(case["inputs"])
    gap = (found.double() - weight.double()) @ inputs.mT
    return float(gap.norm() / (weight.double() @ inputs.mT).norm())


def pruned(case: dict[str, Any], **settings: Any) -> tuple[Tensor, Tensor]:
    """Our pruned weight and the weight, with the threshold of the published code."""
    weight = tensor2_of(case["weight"])
    if case.get("prunem"):  # ``prunen`` is how many go
        settings["pattern"] = f"{case['prunem'] - case['prunen']}:{case['prunem']}"
    else:
        settings["share"] = case["sparsity"]
    spec = sparse.Spec(method="sparse", threshold="published", **settings)
    moments = {"ffn.up": moment_of(case)} if spec.needs_moments else None
    (factors,) = sparse.decompose({"ffn.up": weight}, alone(weight), spec, moments)
    return factors.store.dense(0), weight


def check_mask(case: dict[str, Any], found: Tensor) -> None:
    rows, columns = KEPT_HEAD
    head = ["".join("01"[bool(v)] for v in row[:columns]) for row in found[:rows]]
    assert head == case["kept_head"]
    assert int((found == 0).sum()) == case["zeros"]


@pytest.mark.parametrize("case", DATA2.get("sparsegpt", []))
def test_sparsegpt(case: dict[str, Any]) -> None:
    settings = {"block": case["blocksize"], "damping": case["damping"]}
    found, weight = pruned(case, criterion="sparsegpt", **settings)
    check_mask(case, found)
    assert output_error(case, found, weight) == pytest.approx(case["output_rel_err"], rel=1e-4)
    moment, gap = moment_of(case), (found - weight).double()
    moment.diagonal().add_(case["damping"] * moment.diagonal().mean())
    damped = SAMPLE * float(((gap @ moment) * gap).sum())
    assert damped == pytest.approx(case["half_trace_damped"], rel=1e-4)


@pytest.mark.parametrize("criterion", ["wanda", "magnitude"])
def test_masks(criterion: str) -> None:
    for case in DATA2[criterion]:
        found, weight = pruned(case, criterion=criterion)
        check_mask(case, found)
        gap = found.double() - weight.double()
        weight_error = float(gap.norm() / weight.double().norm())
        assert weight_error == pytest.approx(case["weight_rel_err"], rel=1e-6)
        zeros = (found == 0).sum(1)
        assert [int(zeros.min()), int(zeros.max())] == case["zeros_per_row_min_max"]
        if case["inputs"]:
            error = output_error(case, found, weight)
            assert error == pytest.approx(case["output_rel_err"], rel=1e-6)


@pytest.mark.parametrize("case", DATA2.get("sparse_plus_low_rank", []))
def test_sparse_plus_low_rank_is_no_worse(case: dict[str, Any]) -> None:
    weight = tensor2_of(case["weight"])
    size = {"pattern": "2:4"} if case["kept_n_of_m"] else {"share": case["sparsity"]}
    method = load("sparse_plus_low_rank")
    spec = method.Spec(method="sparse_plus_low_rank", rank=case["rank"], sweeps=3, **size)
    moments = {"ffn.up": moment_of(case)}
    (factors,) = method.decompose({"ffn.up": weight}, alone(weight), spec, moments)
    error = output_error(case, factors.store.dense(0), weight)
    assert error <= 1.02 * case["output_rel_err"]


@pytest.mark.parametrize("case", DATA2.get("sparse_plus_low_rank_planted", {"cases": []})["cases"])
def test_planted_parts_are_told_apart(case: dict[str, Any]) -> None:
    """The reference stops after the sparse half, we after the low rank that follows it."""
    weight, method = tensor2_of(case["input"]), load("sparse_plus_low_rank")
    share = 1 - case["entries"] / weight.numel()
    errors, reached = [], {int(n): error for n, error in case["rel_err_after"].items()}
    for sweeps in (1, 6, 20, 60):
        spec = method.Spec(
            method="sparse_plus_low_rank", criterion="magnitude", share=share, rank=case["rank"],
            sweeps=sweeps,
        )  # fmt: skip
        (factors,) = method.decompose({"ffn.up": weight}, alone(weight), spec, None)
        errors.append(stacked_error(factors.store, weight[None]))
    assert reached[2] - 1e-5 <= errors[0] <= reached[1] + 1e-5
    assert reached[21] - 1e-5 <= errors[1] <= reached[6] + 1e-5
    assert errors[2:] == pytest.approx([reached[21], reached[60]], abs=1e-5)
