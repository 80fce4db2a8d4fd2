"""Every format: applying the factors equals multiplying by the rebuilt matrix."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from support.formats import IN, OUT, SETTINGS, filled
from torch import nn

from tensorpress.formats.build import build
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.modules import FactoredExperts, FactoredLinear, gate_of
from tensorpress.formats.table import FORMATS


def test_every_format_is_tested() -> None:
    assert set(SETTINGS) == set(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_s_file_has_its_name(name: str) -> None:
    """By which keys find its code, without importing it."""
    assert FORMATS[name].__module__ == f"tensorpress.formats.{name}"


@pytest.mark.parametrize("name", list(FORMATS))
def test_project_equals_dense_product(name: str) -> None:
    store = filled(name)
    for index in range(store.slices):
        out_features, in_features = store.matrix_shape(index)
        matrix = store.dense(index).double()
        assert matrix.shape == (out_features, in_features)
        x = torch.randn(4, 5, in_features, dtype=torch.float64)
        torch.testing.assert_close(store.project(x, index), x @ matrix.mT)


def test_tensor_train_takes_the_cheaper_way() -> None:
    sizes = {"slices": 1, "out_features": 64, "in_features": 64}
    modes = {"in_modes": [4, 4, 4], "out_modes": [4, 4, 4], "ranks": [1, 2, 2, 1]}
    store = FORMATS["tt_matrix"](**sizes, **modes).double()
    store.fill(**{k: torch.randn_like(v) for k, v in store.named_parameters()})
    # by hand: cores of 32, 64 and 32 values
    assert store.chain_macs == 32 * 16 + 64 * 4 * 4 + 32 * 16
    assert store.rebuild_macs == 64 * 4 * 4 + 32 * 16 * 16
    used = []
    for name in ("contract", "dense"):
        own = getattr(store, name)
        setattr(store, name, lambda *a, own=own, name=name: (used.append(name), own(*a))[1])
    for tokens in (1, 500):
        x = torch.randn(tokens, 64, dtype=torch.float64)
        torch.testing.assert_close(store.project(x, 0), store.contract(x, 0))
    assert used == ["contract", "contract", "contract", "contract"]
    wide = FORMATS["tt_matrix"](**sizes, **{**modes, "ranks": [1, 16, 16, 1]}).double()
    wide.fill(**{k: torch.randn_like(v) for k, v in wide.named_parameters()})
    x = torch.randn(500, 64, dtype=torch.float64)
    wide.contract = None
    torch.testing.assert_close(wide.project(x, 0), x @ wide.dense(0).mT)


@pytest.mark.parametrize("name", list(FORMATS))
def test_settings_rebuild_the_module(name: str) -> None:
    store = filled(name)
    again = build(**json.loads(json.dumps(store.description))).double()
    again.load_state_dict(store.state_dict())
    for index in range(store.slices):
        torch.testing.assert_close(again.dense(index), store.dense(index))


@pytest.mark.parametrize("name", list(FORMATS))
def test_rows_are_those_of_the_matrix(name: str) -> None:
    store = filled(name)
    ids = torch.tensor([3, 0, 3, store.matrix_shape(0)[0] - 1])
    torch.testing.assert_close(store.rows(ids, 0).double(), store.dense(0)[ids].double())


def test_coordinates_are_packed_without_waste() -> None:
    store = FORMATS["tt_sparse"](**SETTINGS["tt_sparse"])
    rows, columns = torch.tensor([0, 11, 7]), torch.tensor([7, 0, 5])
    packed = store.pack(rows, columns)
    assert packed.numel() == 3  # 3 x (4 + 3) bits in 3 bytes
    store.place_0 = packed
    assert [t.tolist() for t in store.coordinates(0)] == [rows.tolist(), columns.tolist()]


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "zero"])
def test_gradients_reach_every_factor_in_use(name: str) -> None:
    store = filled(name).requires_grad_(True)
    total = sum(
        store.project(torch.randn(3, store.matrix_shape(i)[1], dtype=torch.float64), i).sum()
        for i in range(store.slices)
    )
    total.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in store.parameters())


def test_wrong_shapes_are_refused() -> None:
    store = FORMATS["low_rank"](**SETTINGS["low_rank"])
    with pytest.raises(ValueError, match=r"low_rank\.left"):
        store.fill(left=torch.zeros(1, OUT, 3), right=torch.zeros(2, 3, IN))
    with pytest.raises(ValueError, match="factors"):
        store.fill(left=torch.zeros(2, OUT, 3))


def test_a_subset_of_neurons_is_marked_once_and_run_without_the_rest() -> None:
    store = filled("subset")
    assert store.packed() == {"kept": (14, 1)}
    assert [store.places(index).tolist() for index in (0, 3)] == [[1, 4, 5], [0, 5, 6]]
    assert store.dense(3).abs().sum(0).nonzero().flatten().tolist() == [0, 5, 6]
    part, own = store.runs(3)
    assert (part.matrix_shape(own), own) == ((OUT, 3), 1)
    torch.testing.assert_close(part.dense(own), store.dense(3)[:, [0, 5, 6]])


def test_a_subset_of_heads_keeps_the_first_of_each() -> None:
    dense = {"slices": 1, "out_features": 2 * 3, "in_features": IN}
    other = {"slices": 1, "out_features": IN, "in_features": 4 * 3}
    parts = [{"format": "dense", "settings": each} for each in (dense, other)]
    settings = {"parts": parts, "sides": ["out", "in"], "width": 5, "heads": [2, 4]}
    store = filled("subset", settings)
    assert [store.matrix_shape(index) for index in (0, 1)] == [(10, IN), (IN, 20)]
    rows = store.dense(0).abs().sum(1).view(2, 5) > 0
    assert rows.tolist() == [[True, True, True, False, False]] * 2
    x = torch.randn(3, 20, dtype=torch.float64)
    torch.testing.assert_close(store.project(x, 1), x @ store.dense(1).mT)
    assert store.runs(1) == (store, 1)


def test_linears_share_one_store() -> None:
    store = filled("tucker_heads")
    holder = nn.Module()
    holder.store = store
    holder.q = FactoredLinear([(store, 0)], False)
    holder.o = FactoredLinear([(store, 1)], True).double()
    nn.init.ones_(holder.o.bias)
    assert set(holder.state_dict()) == {*(f"store.{k}" for k in store.state_dict()), "o.bias"}
    twin = copy.deepcopy(holder)
    with torch.no_grad():
        twin.store.core.zero_()
    x = torch.randn(2, OUT, dtype=torch.float64)
    torch.testing.assert_close(twin.o(x), torch.ones(2, IN, dtype=torch.float64))
    assert not torch.allclose(holder.o(x), twin.o(x))


def test_experts_equal_those_of_transformers(moe_directory) -> None:
    from transformers import AutoModelForCausalLM

    experts = AutoModelForCausalLM.from_pretrained(moe_directory).model.layers[0].mlp.experts
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    stores = {}
    for name, weight in {"gate": gate, "up": up, "down": experts.down_proj.detach()}.items():
        slices, out_features, in_features = weight.shape
        store = DenseSlices(slices=slices, out_features=out_features, in_features=in_features)
        stores[name] = store.fill(weight=weight)
    ours = FactoredExperts(**stores, act=gate_of(experts, ()), biases=False)
    x = torch.randn(20, 32)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(20)])
    weights = torch.rand(20, 2)
    torch.testing.assert_close(ours(x, index, weights), experts(x, index, weights))


def test_a_slice_of_rank_zero_is_zero() -> None:
    store = build("ragged", {"slices": 2, "out_features": 3, "in_features": 4, "ranks": [0, 2]})
    store.fill(left=torch.randn(3, 2), right=torch.randn(2, 4))
    x = torch.randn(5, 4)
    assert torch.equal(store.dense(0), torch.zeros(3, 4))
    assert torch.equal(store.project(x, 0), torch.zeros(5, 3))
    torch.testing.assert_close(store.project(x, 1), x @ store.dense(1).mT)
