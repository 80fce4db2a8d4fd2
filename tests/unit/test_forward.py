"""The factored forward: gradients, compiled graphs, grouped products and kept weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.formats import SETTINGS, filled
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from tensorpress.formats.base import Format
from tensorpress.formats.grouped import grouped_linear
from tensorpress.formats.modules import (
    FactoredEmbedding,
    FactoredExperts,
    FactoredLinear,
    cache_weights,
    clamped,
    gated,
)
from tensorpress.formats.table import FORMATS
from tensorpress.formats.tt_matrix import TTMatrix

SIDED = ("shared_basis", "tucker_heads", "sparse_tucker", "per_head", "cp", "subset")
SAME_SHAPES = [n for n in FORMATS if n not in SIDED]
BY_BLOCKS = "tt_matrix by blocks"
FACTORED = [n for n in FORMATS if n != "zero"]
EXPERTS, HIDDEN, INNER = 4, 8, 12
MODES = {"in_modes": [2, 4], "out_modes": [3, 4], "ranks": [1, 3, 1]}
EXPERT_SETTINGS: dict[str, dict[str, Any]] = {
    "dense": {},
    "zero": {},
    "low_rank": {"rank": 3},
    "tt_matrix": MODES,
    "tt_sparse": {**MODES, "outliers": [3, 0, 1, 5]},
    "sparse": {"kept": [40, 0, 25, 96]},
    "two_four": {},
    "tucker_matrix": {"out_rank": 5, "in_rank": 4},
    "tucker_slices": {"out_rank": 5, "in_rank": 4},
    "sparse_tucker": {
        "heads": 1,
        "sides": ["in"] * EXPERTS,
        "mixed": False,
        "core": {
            "format": "sparse",
            "settings": {"slices": 4, "out_features": 6, "in_features": 5, "kept": [9, 3, 0, 30]},
        },
    },
    "mobe": {"rank": 5, "bases": 2, "activation": "silu", "transposed": True},
}
ENDS = [0, 7, 9]
"""Where the rows of three slices end: the first has none."""


def compiled(function: Callable[..., Tensor], backend: str = "aot_eager") -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a sum of the output with fixed weights; zero where the output does not depend."""
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), inputs, materialize_grads=True)


def trainable(store: Format) -> list[Tensor]:
    return list(store.requires_grad_(True).parameters())


def activations(store: Format, index: int = 0, tokens: int = 6) -> Tensor:
    in_features = store.matrix_shape(index)[1]
    return torch.randn(tokens, in_features, dtype=torch.float64, requires_grad=True)


def wide_ranks() -> TTMatrix:
    """A tensor train that is cheaper to rebuild than to contract, from a few tokens on."""
    store = TTMatrix(
        slices=3, out_features=16, in_features=16, in_modes=[4, 4], out_modes=[4, 4],
        ranks=[1, 16, 1],
    ).double()  # fmt: skip
    return store.fill(**{k: torch.randn_like(v) for k, v in store.named_parameters()})


def with_three_slices(name: str) -> Format:
    """The format of ``SETTINGS`` with as many slices as there are ``ENDS``."""
    if name == BY_BLOCKS:
        store = wide_ranks()
        assert not store._contracts(3)
        return store
    settings = three_slices(SETTINGS[name])
    if "outliers" in settings:
        settings["outliers"] = [3, 0, 5]
    if "kept" in settings:
        settings["kept"] = [40, 0, 25]
    return filled(name, settings)


def three_slices(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with three slices, those of formats inside of the format too."""
    own = {key: three_slices(v) if isinstance(v, dict) else v for key, v in settings.items()}
    return own | {"slices": 3} if "slices" in own else own


@pytest.mark.parametrize("name", FACTORED)
def test_gradients_are_those_of_the_rebuilt_matrix(name: str) -> None:
    store = filled(name)
    factors = trainable(store)
    for index in range(store.slices):
        x = activations(store, index)
        ours = gradients(store.project(x, index), [x, *factors])
        torch.testing.assert_close(ours, gradients(x @ store.dense(index).mT, [x, *factors]))


def test_gradients_of_a_tensor_train_multiplied_by_blocks() -> None:
    store = wide_ranks()
    factors, x = trainable(store), activations(store)
    store.contract = None  # not the way that is taken
    ours = gradients(store.project(x, 1), [x, *factors])
    torch.testing.assert_close(ours, gradients(x @ store.dense(1).mT, [x, *factors]))


@pytest.mark.parametrize("name", FACTORED)
def test_project_compiles_as_one_graph(name: str) -> None:
    store = filled(name)
    index = store.slices - 1
    factors, x = trainable(store), activations(store, index)
    expected, y = store.project(x, index), compiled(store.project)(x, index)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, [x, *factors]), gradients(expected, [x, *factors]))


@pytest.mark.parametrize("name", [BY_BLOCKS, *SAME_SHAPES])
def test_grouped_rows_go_through_their_own_slice(name: str) -> None:
    store = with_three_slices(name)
    factors, x = trainable(store), activations(store, tokens=ENDS[-1])
    ends = torch.tensor(ENDS, dtype=torch.int32)
    parts = zip(x.tensor_split(ENDS[:-1]), range(3), strict=True)
    expected = torch.cat([part @ store.dense(index).to(x).mT for part, index in parts])
    wanted = gradients(expected, [x, *factors])
    for project in (store.project_grouped, compiled(store.project_grouped)):
        y = project(x, ends)
        torch.testing.assert_close(y, expected)
        if name != "zero":
            torch.testing.assert_close(gradients(y, [x, *factors]), wanted)
    assert store.project_grouped(x[:0], ends * 0).shape == (0, store.out_features)


@pytest.mark.parametrize("sizes", [(16, 24), (16, 20), (3, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_linear_takes_any_size(
    sizes: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_features, in_features = sizes
    used: list[Tensor] = []
    kernel = torch.nn.functional.grouped_mm

    def spy(*arguments: Tensor, **named: Tensor) -> Tensor:
        used.append(arguments[0])
        return kernel(*arguments, **named)

    ends = torch.tensor(ENDS, dtype=torch.int32)
    # neither rows nor matrices lie as the kernel would have them
    x = torch.randn(in_features, ENDS[-1]).to(dtype).mT.requires_grad_()
    weight = torch.randn(3, in_features, out_features).to(dtype).mT.requires_grad_()
    parts = zip(x.tensor_split(ENDS[:-1]), weight, strict=True)
    expected = torch.cat([linear(part, matrix) for part, matrix in parts])
    wanted = torch.autograd.grad(expected.sum(), [x, weight])
    for product in (grouped_linear, compiled(grouped_linear)):
        y = product(x, weight, ends)
        torch.testing.assert_close(y, expected)
        # a sum's gradient is one number, expanded
        torch.testing.assert_close(torch.autograd.grad(y.sum(), [x, weight]), wanted)
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", spy)
    grouped_linear(x, weight, ends)
    assert len(used) == (dtype == torch.bfloat16 and sizes == (16, 24))


def tiny_experts(name: str, biases: bool) -> FactoredExperts:
    extra = EXPERT_SETTINGS[name]
    wide = {"slices": EXPERTS, "out_features": INNER, "in_features": HIDDEN, **extra}
    tall = {"slices": EXPERTS, "out_features": HIDDEN, "in_features": INNER, **extra}
    if "in_modes" in extra:
        tall |= {"in_modes": extra["out_modes"], "out_modes": extra["in_modes"]}
    gate, up, down = filled(name, wide), filled(name, wide), filled(name, tall)
    act = clamped(1.7, 7.0) if biases else gated(silu)
    experts = FactoredExperts(gate, up, down, act=act, biases=biases)
    for bias in (experts.gate_up_proj_bias, experts.down_proj_bias) if biases else ():
        bias.data = torch.randn(bias.shape, dtype=torch.float64)
    return experts


def one_by_one(experts: FactoredExperts, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Token by token through dense matrices: what the experts stand for."""
    rows = []
    for token, chosen, shares in zip(x, index.tolist(), weights, strict=True):
        total = torch.zeros_like(token)
        for expert, share in zip(chosen, shares, strict=True):
            gate = experts.gate.dense(expert).to(token) @ token
            up = experts.up.dense(expert).to(token) @ token
            if experts.biases:
                gate = gate + experts.gate_up_proj_bias[expert][::2]
                up = up + experts.gate_up_proj_bias[expert][1::2]
            y = experts.down.dense(expert).to(token) @ experts.act(gate, up)
            total = total + share * (y + experts.down_proj_bias[expert] if experts.biases else y)
        rows.append(total)
    return torch.stack(rows)


def routed(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, two experts of each, never the third, and their weights."""
    x = torch.randn(tokens, HIDDEN, dtype=torch.float64, requires_grad=True)
    used = torch.tensor([0, 1, 3])
    index = torch.stack([used[torch.randperm(3)[:2]] for _ in range(tokens)])
    return x, index, torch.rand(tokens, 2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", EXPERT_SETTINGS)
def test_experts_equal_a_loop_over_tokens(name: str, biases: bool) -> None:
    experts = tiny_experts(name, biases)
    x, index, weights = routed(tokens=7)
    inputs = [x, weights, *experts.requires_grad_(True).parameters()]
    expected, y = one_by_one(experts, x, index, weights), experts(x, index, weights)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, inputs), gradients(expected, inputs))
    assert experts(x[:0], index[:0], weights[:0]).shape == (0, HIDDEN)


@pytest.mark.parametrize("name", EXPERT_SETTINGS)
def test_experts_compile_as_one_graph(name: str) -> None:
    experts = tiny_experts(name, biases=True)
    x, index, weights = routed(tokens=7)
    expected, y = experts(x, index, weights), compiled(experts)(x, index, weights)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, [x, weights]), gradients(expected, [x, weights]))


def test_experts_in_bfloat16_with_router_weights_in_float32() -> None:
    experts = tiny_experts("low_rank", True)
    x, index, weights = routed(tokens=7)
    expected = experts(x, index, weights)
    y = experts.bfloat16()(x.bfloat16(), index, weights.float())
    assert y.dtype == torch.bfloat16
    assert float(((y - expected).norm() / expected.norm()).detach()) < 0.03


def test_inductor_computes_the_same() -> None:
    experts = tiny_experts("low_rank", True)
    x, index, weights = routed(tokens=7)
    expected = experts(x, index, weights)
    y = compiled(experts, backend="inductor")(x, index, weights)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, [x, weights]), gradients(expected, [x, weights]))


def tiny_model() -> nn.Module:
    model = nn.Module()
    model.table = filled("low_rank")
    model.shared = filled("tucker_heads")
    model.embedding = FactoredEmbedding(model.table, 2.0)
    model.linear = FactoredLinear([(model.shared, 0), (model.table, 1)], True, heads=3).double()
    model.experts = tiny_experts("tt_sparse", False)
    nn.init.ones_(model.linear.bias)
    return model


def outputs(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(0)
    x, index, weights = routed(tokens=7)
    return [
        model.embedding(torch.tensor([[3, 0, 3]])),
        model.linear(x),
        model.experts(x, index, weights),
    ]


def test_kept_weights_give_the_same_outputs_and_are_never_stored() -> None:
    model = tiny_model()
    plain, saved = outputs(model), set(model.state_dict())
    cache_weights(model)
    assert set(model.state_dict()) == saved
    compiled_linear = compiled(model.linear)
    x = torch.randn(2, HIDDEN, dtype=torch.float64)
    torch.testing.assert_close(compiled_linear(x), model.linear(x))
    with torch.no_grad():
        for factor in [*model.table.parameters(), *model.experts.parameters()]:
            factor.zero_()
    torch.testing.assert_close(outputs(model), plain)  # so the factors are not read
    assert model.float().linear.weight.dtype == torch.float32
    cache_weights(model, False)
    assert not any("_kept" in name for name, _ in model.named_buffers())
    assert not outputs(model.double())[0].any()


def test_kept_weights_give_way_to_training() -> None:
    model = tiny_model()
    plain = outputs(model)
    cache_weights(model)
    trained = [model.shared.core, model.experts.up.core_0, model.table.left]
    for factor in trained:
        factor.requires_grad_(True)
    ours = outputs(model)
    torch.testing.assert_close(ours, plain)
    assert all(bool(g.any()) for g in gradients(torch.cat([y.flatten() for y in ours]), trained))
    assert not any("_kept" in name for name, _ in model.named_buffers())
    with pytest.raises(ValueError, match="frozen"):
        cache_weights(model)
