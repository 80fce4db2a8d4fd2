"""MoBE: planted bases are found, experts may change places, errors are weighed rightly."""

from __future__ import annotations

import pytest
import torch
from support.layers import EXPERTS, INNER, layer, relative, weights_of
from torch import Tensor

from tensorpress.architectures.sites import count_of, gradient_of
from tensorpress.errors import TensorpressError
from tensorpress.linalg.mobe import Weighing, linear_start, shared_bases
from tensorpress.linalg.truncated_svd import truncated_svd
from tensorpress.methods.mobe import Spec, decompose


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fitted(stack: Tensor, rank: int, count: int, steps: int, **how) -> Tensor:
    """The stack as linear mixtures of bases."""
    found = shared_bases(stack, rank, count, "identity", steps, batch=2, **how)
    return found.left @ torch.einsum("em,mri->eri", found.mix, found.bases)


def test_bases_of_neighbours_are_found_at_once() -> None:
    bases, left = noise(2, 5, 16), noise(6, 11, 5)
    stack = left @ bases[[0, 0, 0, 1, 1, 1]]
    found, mix = linear_start(stack, 5, 2)
    assert mix.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3
    mixed = torch.einsum("em,mri->eri", mix, found)
    for matrix, basis in zip(stack, mixed, strict=True):
        rest = matrix - matrix @ torch.linalg.pinv(basis) @ basis
        assert float(rest.norm() / matrix.norm()) < 1e-6


def test_a_basis_for_every_expert_is_the_svd_of_each() -> None:
    stack = noise(4, 9, 12)
    found, mix = linear_start(stack, 3, 4)
    assert torch.equal(mix, torch.eye(4).double())
    for matrix, basis in zip(stack, found, strict=True):
        left, right, _ = truncated_svd(matrix, 3)
        projected = matrix @ torch.linalg.pinv(basis) @ basis
        torch.testing.assert_close(projected, left @ right)


def test_experts_may_change_places() -> None:
    stack = noise(6, 9, 12)
    order = [4, 3, 5, 1, 0, 2]  # those that share a basis stay together
    plain, moved = (fitted(each, 4, 2, steps=25) for each in (stack, stack[order]))
    torch.testing.assert_close(moved, plain[order], atol=1e-6, rtol=1e-6)


def test_steps_lower_the_error_whatever_is_in_memory_at_once() -> None:
    stack = noise(5, 9, 12)
    errors = [relative(fitted(stack, 4, 2, steps), stack) for steps in (0, 20, 200)]
    assert errors[2] < errors[1] < errors[0]
    alone = shared_bases(stack, 4, 2, "tanh", 20, batch=1)
    together = shared_bases(stack, 4, 2, "tanh", 20, batch=5)
    torch.testing.assert_close(alone.bases, together.bases)


@pytest.mark.parametrize("activation", ["tanh", "silu", "identity"])
@pytest.mark.parametrize("weighed", [False, True])
def test_slopes_are_those_of_the_error(activation: str, weighed: bool) -> None:
    """One step of plain descent changes the weighed error as autograd says."""
    from tensorpress.linalg.mobe import BENDS, _Fitted

    stack, bases, mix = noise(3, 6, 9), noise(2, 4, 9).requires_grad_(), noise(3, 2)
    weighing = Weighing()
    if weighed:
        roots = noise(3, 9, 9)
        weighing = Weighing(torch.rand(3, 6), roots @ roots.mT, torch.rand(3))
    bend = BENDS[activation]
    some = slice(0, 3)
    one = _Fitted.of(stack, bases, mix, bend, weighing, some)
    mixed = (mix @ bases.flatten(1)).unflatten(1, bases.shape[1:])
    change = one.left @ bend(mixed)[0] - stack
    error = (change * weighing.part(some).of_all(change)).sum()
    (expected,) = torch.autograd.grad(error, bases)
    ours = torch.einsum("em,eri->mri", mix, one.gradient())
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_weighed_errors_are_lower_where_they_are_weighed() -> None:
    shape, weights = layer(), weights_of("experts", layer())
    moments = {}
    for module, weight in weights.items():
        x = torch.randn(EXPERTS, 50, weight.shape[2]) * torch.logspace(0, -2, weight.shape[2])
        moments[module] = x.mT @ x / 50
        moments[gradient_of(module)] = torch.logspace(0, -2, weight.shape[1]).repeat(EXPERTS, 1)
        moments[count_of(module)] = torch.tensor([10, 20, 5, 1, 0])
        moments[module][4] = 0  # no token reached it
    found = {}
    for whiten in ("none", "input", "both"):
        spec = Spec(method="mobe", rank=6, bases=2, steps=60, whiten=whiten)
        found[whiten] = {f.modules[0]: f.store.stacked() for f in decompose(
            weights, shape, spec, moments if spec.needs_moments else None
        )}  # fmt: skip
    for module, weight in weights.items():
        errors = {}
        for whiten, made in found.items():
            assert torch.isfinite(made[module]).all()
            change = made[module] - weight
            outputs = (change @ moments[module] * change).sum(-1)
            tokens = moments[count_of(module)][:, None]
            errors[whiten] = (
                float((tokens * outputs).sum()),
                float((tokens * outputs * moments[gradient_of(module)]).sum()),
            )
        assert errors["input"][0] < errors["none"][0], module
        assert errors["both"][1] < errors["input"][1], module


def test_a_stack_of_zeros_stays_zero() -> None:
    assert not fitted(torch.zeros(4, 6, 8), 3, 2, steps=5).any()


def test_uneven_groups_and_down_s_transpose() -> None:
    shape = layer()
    layouts = Spec(method="mobe", rank=4, bases=2).layouts(shape, "experts")
    assert [each.settings["transposed"] for each in layouts] == [False, False, True]
    for each in layouts:
        sides = {name: tuple(value.shape) for name, value in each.build().named_parameters()}
        assert sides == {"left": (5, INNER, 4), "bases": (2, 4, 24), "mix": (5, 2)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 30}, r"rank: 30 is above the limit at experts\.gate; allowed: 1 to 18"),
        ({"rank": 3, "bases": 6}, r"bases: 6 is above the limit at experts\.gate; allowed: 1 to 5"),
        ({"budget": {"saved": 0.99}}, r"budget\.saved: 0\.99 leaves no room for rank 1"),
    ],
)
def test_what_saves_nothing_or_does_not_fit_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(TensorpressError, match=said):
        Spec(method="mobe", **settings).check(layer(), "experts")
