"""Method ``heads``: what cutting values leaves of each head's product, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import count_of, gradient_of
from tensorpress.errors import TensorpressError
from tensorpress.methods.attention_heads import head_slices
from tensorpress.methods.factors import Factors
from tensorpress.methods.heads import VALUES, Spec, decompose

HIDDEN, HEADS, WIDTH = 20, 4, 6


def layer(kv_heads: int) -> LayerShape:
    sides = {"q": HEADS, "k": kv_heads, "v": kv_heads}
    table = {f"attention.{n}": ModuleShape(h * WIDTH, HIDDEN) for n, h in sides.items()}
    table["attention.o"] = ModuleShape(HIDDEN, HEADS * WIDTH)
    return LayerShape(HIDDEN, HEADS, kv_heads, WIDTH, table)


def drawn(shape: LayerShape) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and moments of values that really come of them; contexts are tokens' mixtures."""
    torch.manual_seed(0)
    weights = {m: torch.randn(s.out_features, s.in_features) for m, s in shape.modules.items()}
    x = torch.randn(300, HIDDEN) @ torch.randn(HIDDEN, HIDDEN)
    return weights, moments_of(weights, x, shape)


def moments_of(weights: dict[str, Tensor], x: Tensor, shape: LayerShape) -> dict[str, Tensor]:
    mixed = (torch.rand(HEADS, 300, 300) / 300) @ x
    v = head_slices(weights["attention.v"], shape, "attention.v")
    context = mixed @ v.repeat_interleave(HEADS // len(v), dim=0).mT
    read = {"attention.o": context.permute(1, 0, 2).flatten(1)}
    inputs = {module: read.get(module, x) for module in weights}
    found = {module: y.mT @ y / len(y) for module, y in inputs.items()}
    found |= {gradient_of(m): torch.rand(1, len(weight)) for m, weight in weights.items()}
    return found | {count_of(module): torch.tensor([300]) for module in weights}


def values(spec: Spec, shape: LayerShape, weights: dict, moments: dict | None) -> Factors:
    (found,) = (f for f in decompose(weights, shape, spec, moments) if f.modules == VALUES)
    return found


def product(v: Tensor, o: Tensor, shape: LayerShape) -> Tensor:
    per_kv = head_slices(v, shape, "attention.v").repeat_interleave(HEADS // shape.kv_heads, dim=0)
    return head_slices(o, shape, "attention.o") @ per_kv


@pytest.mark.parametrize("basis", ["output", "pca"])
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_values_of_low_rank_are_cut_without_error(kv_heads: int, basis: str) -> None:
    shape = layer(kv_heads)
    weights, _ = drawn(shape)
    low = torch.randn(kv_heads, WIDTH, 3) @ torch.randn(kv_heads, 3, HIDDEN)
    weights["attention.v"] = low.flatten(0, 1)
    moments = moments_of(weights, torch.randn(300, HIDDEN), shape)
    spec = Spec(method="heads", rank=3, basis=basis)
    for known in (moments, None) if basis == "pca" else (moments,):
        made = values(spec, shape, weights, known)
        found = product(made.store.dense(0), made.store.dense(1), shape)
        wanted = product(*(weights[m] for m in VALUES), shape)
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert made.store.runs(0) == (made.store, 0)


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_the_product_s_error_is_that_of_the_outputs(kv_heads: int) -> None:
    shape = layer(kv_heads)
    weights, moments = drawn(shape)
    made = values(Spec(method="heads", rank=4), shape, weights, moments)
    right = made.turns["attention.v"].double()
    narrow = made.store.parts[1].weight[0].double().unflatten(1, (kv_heads, -1, 4))
    old = torch.einsum("oahr,arw->oahw", narrow, right).flatten(1)
    change, moment = old - weights["attention.o"].double(), moments["attention.o"].double()
    total = weights["attention.o"].double()
    share = ((change @ moment) * change).sum() / ((total @ moment) * total).sum()
    assert made.product_error == pytest.approx(float(share.sqrt()), rel=1e-4)


def test_the_output_basis_errs_least() -> None:
    shape = layer(HEADS)
    weights, moments = drawn(shape)
    gradient = moments[gradient_of("attention.o")].sqrt().mT
    blocks = moments["attention.o"].unflatten(0, (HEADS, -1)).unflatten(2, (HEADS, -1))

    def error(made: Factors) -> float:
        narrow = made.store.parts[1].weight[0].unflatten(1, (HEADS, -1)).transpose(0, 1)
        change = narrow @ made.turns["attention.v"] - head_slices(
            weights["attention.o"], shape, "attention.o"
        )
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return float((((gradient * change) @ own) * (gradient * change)).sum())

    by = {b: Spec(method="heads", rank=2, basis=b) for b in ("output", "pca")}
    errors = {basis: error(values(spec, shape, weights, moments)) for basis, spec in by.items()}
    assert errors["output"] < errors["pca"]


def test_a_rotated_head_is_cut_alike() -> None:
    shape = layer(2)
    weights, moments = drawn(shape)
    spec = Spec(method="heads", rank=3)
    before = values(spec, shape, weights, moments)
    turn, _ = torch.linalg.qr(torch.randn(2, WIDTH, WIDTH))
    v = head_slices(weights["attention.v"], shape, "attention.v")
    rotated = {**weights, "attention.v": (turn @ v).flatten(0, 1)}
    wide = torch.block_diag(*turn.repeat_interleave(2, dim=0))
    rotated["attention.o"] = weights["attention.o"] @ wide.mT
    moved = {**moments, "attention.o": wide @ moments["attention.o"] @ wide.mT}
    after = values(spec, shape, rotated, moved)
    torch.testing.assert_close(
        product(after.store.dense(0), after.store.dense(1), shape),
        product(before.store.dense(0), before.store.dense(1), shape),
        atol=1e-3,
        rtol=1e-3,
    )


def test_the_whole_width_changes_nothing() -> None:
    shape = layer(2)
    weights, moments = drawn(shape)
    for each in decompose(weights, shape, Spec(method="heads", rank=WIDTH), moments):
        assert torch.equal(each.store.dense(0), weights[each.modules[0]])


def test_a_budget_is_of_what_is_cut() -> None:
    shape = layer(2)
    assert Spec(method="heads", budget={"saved": 0.5}).rank_of(shape) == 3
    spec = Spec(method="heads", budget={"saved": 0.5}, qk="published")
    stored = 3 * (HEADS + 2) * (2 * HIDDEN + WIDTH)
    dense = 2 * (HEADS + 2) * WIDTH * HIDDEN
    assert stored > dense / 2 >= stored * 2 / 3
    assert spec.rank_of(shape) == 2


def test_refusals() -> None:
    with pytest.raises(TensorpressError, match="rank: 7 is above the limit at attention; allowed"):
        Spec(method="heads", rank=7).check(layer(2), "attention")
    table = {"attention.q": ModuleShape(24, 20), "attention.kv_down": ModuleShape(8, 20)}
    latent = LayerShape(HIDDEN, HEADS, HEADS, WIDTH, table, 3)
    with pytest.raises(TensorpressError, match="matrices of layer 3 are not heads of 6"):
        Spec(method="heads", rank=3).check(latent, "attention")
