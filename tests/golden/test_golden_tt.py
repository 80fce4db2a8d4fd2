"""Tensor trains agree with the oracle: factors of sizes, ranks, errors, and kept entries."""

from __future__ import annotations

import pytest
from support.oracle import DATA, needs_golden, stacked_error, tensor_of
from support.stages import alone

from tensorpress.linalg.tt_shapes import balanced_factors
from tensorpress.methods.registry import load

pytestmark = needs_golden


def test_balanced_factors() -> None:
    for number, orders in DATA["factor_int_balanced"].items():
        for order, expected in orders.items():
            assert balanced_factors(int(number), int(order)) == expected


@pytest.mark.parametrize("name", list(DATA.get("tt", {})))
def test_tt(name: str) -> None:
    entry = DATA["tt"][name]
    weight = tensor_of(entry["input"])
    cases = [case for case in entry["cases"] if case["rank"] is not None]
    assert cases
    for case in cases:
        spec = load("tt").Spec(method="tt", order=case["order"], rank=case["rank"])
        (factors,) = load("tt").decompose({"ffn.up": weight}, alone(weight), spec, None)
        values = sum(value.numel() for value in factors.store.state_dict().values())
        bias = weight.shape[0] if case.get("bias") else 0
        assert factors.store.settings["ranks"] == case["tt_ranks"]
        assert values + bias == case["num_tt_parameters"]
        error = stacked_error(factors.store, weight[None])
        assert error == pytest.approx(case["rel_err"], rel=1e-5, abs=1e-6)
        assert factors.lower_bound * (1 - 1e-6) <= error + 1e-6
        assert error <= factors.upper_bound * (1 + 1e-6) + 1e-6


def test_tt_exact() -> None:
    for entry in DATA["tt_exact"]:
        weight = tensor_of(entry["input"])
        for case in entry["cases"]:
            spec = load("tt").Spec(method="tt", order=case["order"], rank=case["rank"])
            (factors,) = load("tt").decompose({"ffn.up": weight}, alone(weight), spec, None)
            assert factors.store.settings["ranks"] == case["tt_ranks"]
            error = stacked_error(factors.store, weight[None])
            assert error == pytest.approx(case["rel_err"], rel=1e-5, abs=1e-6)


def test_tt_sparse() -> None:
    for case in DATA["dense_sparse"]:
        made = {"A96x288": "mixed(11,96,288)", "A256x704": "mixed(13,256,704)"}
        weight = tensor_of(made[case["input"].split()[0]])
        weight[3, 7], weight[-1, -1] = 1.5, -2.0
        spec = load("tt_sparse").Spec(
            method="tt_sparse",
            order=case["order"],
            rank=case["rank"],
            outliers=case["outlier_fraction"],
            keep=case["include_coords"],
        )
        (factors,) = load("tt_sparse").decompose({"ffn.up": weight}, alone(weight), spec, None)
        store = factors.store
        rows, columns = store.coordinates(0)
        assert len(rows) == case["kept"]
        first = list(zip(rows.tolist(), columns.tolist(), strict=True))
        count = len(case["first_coords"])
        assert [list(place) for place in first][:count] == case["first_coords"]
        assert store.settings["ranks"] == case["tt_ranks"]
        trains = sum(core.numel() for core in store.cores(0))
        assert trains == case["tt_params"]
        sparse = len(rows) * (16 + sum(store.coordinate_bits))
        assert sparse == case["sparse_storage_bits"]
        assert 0 <= 8 * store.place_0.numel() + 16 * len(rows) - sparse < 8  # whole bytes
        assert stacked_error(store, weight[None]) == pytest.approx(case["rel_err"], rel=1e-5)
