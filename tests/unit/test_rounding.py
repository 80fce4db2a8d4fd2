"""Rounding: codes and scales, any format with rounded factors, and runs of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.formats import SETTINGS, filled
from support.workspace import tiny_params

from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import stored_tensors
from tensorpress.formats import rounding
from tensorpress.formats.build import build
from tensorpress.formats.rounded import Rounded, rounded
from tensorpress.planning.compression import compression_of
from tensorpress.planning.plan import Plan


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_packed_without_waste(bits: int) -> None:
    for count in (1, 7, 8, 9, 100):
        codes = torch.randint(2**bits, (count,), dtype=torch.uint8)
        packed = rounding.pack(codes, bits)
        assert packed.numel() == -(-count * bits // 8)
        assert torch.equal(rounding.unpack(packed, bits, count), codes)


def test_packing_puts_the_first_code_first() -> None:
    codes = torch.tensor([0b101, 0b001, 0b111], dtype=torch.uint8)
    assert rounding.pack(codes, 3).tolist() == [0b10100111, 0b10000000]


@pytest.mark.parametrize(("bits", "group"), [(2, 5), (4, None), (4, 16), (8, 7)])
def test_values_move_by_half_a_step_at_most(bits: int, group: int | None) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 9) * torch.logspace(-3, 0, 6)[:, None]
    scales = rounding.scales_of(values, bits, group)
    assert len(scales) == (1 if group is None else -(-54 // group))
    codes = rounding.quantise(values, scales, bits, group)
    assert int(codes.max()) == 2 * rounding.limit(bits) < 2**bits
    again = rounding.dequantise(codes, scales, bits, group).view_as(values)
    steps = rounding.spread(scales, 54, group).view_as(values)
    for row, expected in enumerate(steps):  # groups go on across rows
        assert torch.equal(rounding.spread(scales, 9, group, 9 * row), expected)
    assert bool(((again - values).abs() <= steps / 2 * 1.0001).all())
    assert torch.equal(again.sign() * values.sign(), again.sign().abs())


def test_zeros_stay_zero() -> None:
    values = torch.tensor([0.0, 0.0, 3.0, 0.0])
    scales = rounding.scales_of(values, 4, 2)
    codes = rounding.quantise(values, scales, 4, 2)
    assert torch.equal(rounding.dequantise(codes, scales, 4, 2), values)


# the parts of a subset are rounded, not the whole
@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in ("rounded", "zero", "subset")])
def test_every_format_rounds(name: str) -> None:
    store = filled(name)
    coarse, fine = (rounded(store, bits, 16, torch.float32).double() for bits in (4, 8))
    assert isinstance(coarse, Rounded)
    again = build(**coarse.description).double()
    again.load_state_dict(coarse.state_dict())
    assert torch.equal(again.dense(0), coarse.dense(0))
    for index in range(store.slices):
        shape = store.matrix_shape(index)
        assert coarse.matrix_shape(index) == shape
        matrix = store.dense(index)
        errors = [float((each.dense(index) - matrix).norm()) for each in (coarse, fine)]
        assert 0 < errors[1] < 0.2 * errors[0]
        assert errors[1] < 0.05 * float(matrix.norm())
        x = torch.randn(4, shape[1], dtype=torch.float64)
        torch.testing.assert_close(coarse.project(x, index), x @ coarse.dense(index).mT)
    factors = store.state_dict()
    exact = ("outlier", "place", *store.exact)
    exact_names = [n for n in factors if n.rpartition(".")[2].startswith(exact)]
    packed = dict.fromkeys(("sparse", "sparse_tucker", "two_four", "mobe"), 1)
    assert len(exact_names) == {**packed, "tt_sparse": 4}.get(name, 0)
    for kept in exact_names:
        assert torch.equal(coarse.state_dict()[kept.replace(".", "__")], factors[kept])
    codes = sum(v.numel() for n, v in factors.items() if n not in exact_names)
    counted = [t for t in stored_tensors(coarse, 0, replaced=True).values() if t.bits == 4]
    assert sum(t.numel for t in counted) == codes


def test_a_call_leaves_no_decoded_factors_behind() -> None:
    store = rounded(filled("low_rank"), 4, None, torch.float32)
    store.project(torch.randn(2, 8, dtype=torch.float64), 0)
    held = {n for n, v in store.state_dict().items() if v.device.type != "meta"}
    assert held == {"left_codes", "left_scales", "right_codes", "right_scales"}
    assert all(value.is_meta for value in store.inner.state_dict().values())


def test_rounding_is_done_once() -> None:
    store = rounded(filled("dense"), 3, None, torch.float32)
    assert rounded(store, 8, None, torch.float32) is store
    empty = filled("zero")
    assert rounded(empty, 8, None, torch.float32) is empty


def test_rounding_makes_runs_of_its_own_from_the_same_factors(inputs: Path) -> None:
    params = tiny_params()
    exact = params["recipes"]["svd"]
    params["recipes"]["int4"] = {**exact, "rounding": {"bits": 4}}
    params["recipes"]["grouped"] = {**exact, "rounding": {"bits": 4, "group_size": 64}}
    plan = Plan(parse(params))
    runs = {each.recipe: each.run for each in plan.recipe_runs}
    assert len({runs[name].id for name in ("svd", "int4", "grouped")}) == 3
    assert "svd-int4-L1" in runs["int4"].id
    assert "int4" not in runs["svd"].id
    rounded = compression_of(runs["int4"])
    assert (rounded.methods, rounded.rounding_bits) == ("svd-whitened", 4)
    assert runs["int4"].placements == runs["svd"].placements


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rounding", {"bits": 9}, r"recipes\.svd\.rounding\.bits: 9 is not allowed"),
        ("rounding", {"group_size": 1}, r"recipes\.svd\.rounding\.group_size: 1 is not allowed"),
        ("steps", [{"modules": ["embedding"], "method": "gptq"}],
         r"methods\.gptq\.method: 'gptq' does not decompose embedding; allowed: attention"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(inputs: Path, path: str, value: object, message: str) -> None:
    params = tiny_params()
    params["methods"]["gptq"] = {"method": "gptq"}
    params["recipes"]["svd"][path] = value
    with pytest.raises(TensorpressError, match=message):
        Plan(parse(params))
