"""Rounding: codes and scales, any format with rounded factors, GPTQ, checkpoints and their bits."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_formats import SETTINGS, filled
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from workspace import ROOT, save_tiny, tiny_llama, tiny_params, tiny_text

from tensorpress.assembly import LayerFactors, assemble
from tensorpress.checkpoint import Checkpoint
from tensorpress.decomposition import decompose_layer, measure
from tensorpress.densify import densify
from tensorpress.errors import TensorpressError
from tensorpress.factorfile import load_factors, save_factors
from tensorpress.families.table import family_of
from tensorpress.formats import rounding
from tensorpress.formats.rounded import Rounded, rounded
from tensorpress.formats.table import FORMATS
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.loading import load_model
from tensorpress.manifest import MANIFEST, Provenance, write_manifest
from tensorpress.methods import gptq
from tensorpress.params import Rounding, parse
from tensorpress.plan import Plan
from tensorpress.registry import load
from tensorpress.rows import DecompositionRow, StorageRow, write_rows
from tensorpress.sizing import MetaModel, sizes
from tensorpress.storage import stored_tensors

CPU = torch.device("cpu")
LAYER = 1


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
    assert bool(((again - values).abs() <= steps / 2 * 1.0001).all())
    assert torch.equal(again.sign() * values.sign(), again.sign().abs())


def test_zeros_stay_zero() -> None:
    values = torch.tensor([0.0, 0.0, 3.0, 0.0])
    scales = rounding.scales_of(values, 4, 2)
    codes = rounding.quantise(values, scales, 4, 2)
    assert torch.equal(rounding.dequantise(codes, scales, 4, 2), values)


@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in ("rounded", "zero")])
def test_every_format_rounds(name: str) -> None:
    store = filled(name)
    coarse, fine = (rounded(store, bits, 16, torch.float32).double() for bits in (4, 8))
    assert isinstance(coarse, Rounded)
    for index in range(store.slices):
        shape = store.matrix_shape(index)
        assert coarse.matrix_shape(index) == shape
        exact = store.dense(index)
        errors = [float((each.dense(index) - exact).norm()) for each in (coarse, fine)]
        assert 0 < errors[1] < 0.2 * errors[0]
        assert errors[1] < 0.05 * float(exact.norm())
        x = torch.randn(4, shape[1], dtype=torch.float64)
        torch.testing.assert_close(coarse.project(x, index), x @ coarse.dense(index).mT)
    factors = store.state_dict()
    exact_names = [n for n in factors if n.startswith(("outlier", "place"))]
    assert len(exact_names) == (4 if name == "tt_sparse" else 0)
    for kept in exact_names:
        assert torch.equal(coarse.state_dict()[kept], factors[kept])
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


def alone(weight: Tensor) -> LayerShape:
    slices = weight.shape[0] if weight.ndim == 3 else 1
    module = "experts.up" if weight.ndim == 3 else "ffn.up"
    return LayerShape(1, 1, 1, 1, {module: ModuleShape(*weight.shape[-2:], slices)})


def output_error(store, weight: Tensor, moment: Tensor) -> float:
    """Root of ``tr(D M D^T)`` over that of the weight: the relative error of the outputs."""
    stack, inputs = weight.double().view(-1, *weight.shape[-2:]), moment.double()
    inputs = inputs.view(-1, *inputs.shape[-2:])
    gap = torch.stack([store.dense(i) for i in range(len(stack))]).double() - stack
    weighed = [((each @ inputs) * each).sum() for each in (gap, stack)]
    return float(weighed[0] / weighed[1]) ** 0.5


@pytest.mark.parametrize(("bits", "group"), [(2, 16), (3, None), (4, 48), (8, 16)])
def test_gptq_beats_rounding_on_correlated_inputs(bits: int, group: int | None) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 48) @ torch.randn(48, 48) / 7
    weight, moment = torch.randn(40, 48), inputs.mT @ inputs / 400
    spec = gptq.Spec(method="gptq", bits=bits, group=group)
    (factors,) = gptq.decompose({"ffn.up": weight}, alone(weight), spec, {"ffn.up": moment})
    sizes = {"slices": 1, "out_features": 40, "in_features": 48}
    plain = FORMATS["dense"](**sizes).fill(weight=weight[None])
    nearest = rounded(plain, bits, group, torch.bfloat16)
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
    spec = gptq.Spec(method="gptq", bits=4, group=12)
    given = {"experts.up": moment}
    (factors,) = gptq.decompose({"experts.up": weight}, alone(weight), spec, given)
    sizes = {"slices": 2, "out_features": 10, "in_features": 12}
    plain = FORMATS["dense"](**sizes).fill(weight=weight)
    nearest = rounded(plain, 4, 12, torch.bfloat16)
    assert torch.equal(factors.store.dense(0), nearest.dense(0))
    assert not torch.equal(factors.store.dense(1), nearest.dense(1))


@dataclasses.dataclass(frozen=True)
class Made:
    """A compressed checkpoint and what it was made from."""

    target: Path
    placement: LayerFactors
    storage: StorageRow
    manifest: dict


def make(
    model: Path, method: str, settings: dict, modules: tuple[str, ...], folder: Path,
    rounding: Rounding | None, dtype: str = "float32",
) -> Made:  # fmt: skip
    checkpoint = Checkpoint.open(model)
    family = family_of(checkpoint.config, "test")
    shape = family.layer_shape(checkpoint.config, LAYER)
    spec = load(method).Spec(method=method, **settings)
    group = modules[0].split(".")[0]
    factors, seconds, weights = decompose_layer(model, family, spec, group, LAYER, None, CPU)
    folder.mkdir(exist_ok=True)
    save_factors(factors, folder / "f.safetensors")
    labels = {"model": "m", "method_name": method, "method": method, "group": group}
    rows = measure(factors, weights, shape.modules, labels, LAYER, seconds)
    write_rows(rows, DecompositionRow, folder / "f.parquet")
    placement = LayerFactors(LAYER, modules, folder / "f.safetensors")
    storage = assemble(model, family, [placement], dtype, folder / "out", rounding)
    origin = Provenance(
        LAYER, modules, method, settings, folder / "f.safetensors", folder / "f.parquet"
    )
    write_manifest([origin], dtype, folder / "out", rounding)
    manifest = json.loads((folder / "out" / MANIFEST).read_text())
    return Made(folder / "out", placement, storage, manifest)


FFN = ("ffn.gate", "ffn.up", "ffn.down")
CASES = [
    ("dense", {}, FFN, Rounding(bits=3)),
    ("svd", {"rank": 5}, FFN, Rounding(bits=4, group=32)),
    ("tt_sparse", {"order": 3, "rank": 4, "outliers": 0.01}, FFN, Rounding(bits=8)),
    ("gptq", {"bits": 5}, FFN, None),
    ("tucker_qkvo", {"ranks": {"hidden": 12}},
     ("attention.q", "attention.k", "attention.v", "attention.o"), Rounding(bits=6)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "modules", "rounding"), CASES)
def test_a_checkpoint_stores_what_the_plan_counts(
    llama_directory: Path, tmp_path: Path, method, settings, modules, rounding
) -> None:
    made = make(llama_directory, method, settings, modules, tmp_path, rounding)
    recipe = {
        "models": ["m"], "steps": [{"modules": [modules[0].split(".")[0]], "method": "it"}],
        "layers": ["one"], "tasks": ["heldout"],
    }  # fmt: skip
    params = tiny_params() | {
        "models": {"m": {"source": "config", "path": "-"}},
        "methods": {"it": {"method": method, **settings}},
        "layer_sets": {"one": [LAYER]},
        "recipes": {"r": recipe | ({"rounding": rounding.model_dump()} if rounding else {})},
        "reports": {},
    }
    config = json.loads((llama_directory / "config.json").read_text())
    (size,) = sizes(MetaModel("m", config), parse(params))
    assert size.saved.stored_bits == made.storage.stored_bits
    assert size.saved.dense_bits == made.storage.dense_bits
    stacks = {tuple(e["stack"]): e["stack_bits"] for e in made.manifest["modules"]}
    assert sum(stacks.values()) == size.saved.modules_stored_bits
    assert 0 < made.storage.checkpoint_bytes - made.storage.stored_bits / 8 < 20_000


def test_plan_json_tells_what_rounding_adds(llama_directory: Path, tmp_path: Path) -> None:
    made = make(llama_directory, "dense", {}, ("ffn.up",), tmp_path, Rounding(bits=4))
    (entry,) = made.manifest["modules"]
    (exact,) = load_factors(made.placement.file, ("ffn.up",))
    name = f"model.layers.{LAYER}.mlp.up_proj"
    held = load_model(made.target, CPU).get_submodule(name).weight.detach()
    gap = (held - exact.store.dense(0)).norm() / exact.store.dense(0).norm()
    assert entry["relative_error"] == 0.0
    assert entry["rounding_error"] == pytest.approx(float(gap), rel=1e-5)
    assert 0.05 < entry["rounding_error"] < 0.3
    assert entry["format"] == "rounded"


def test_scales_are_those_of_the_storage_dtype(llama_directory: Path, tmp_path: Path) -> None:
    """Codes are the nearest under the scale that is stored, not under a finer one."""
    made = make(llama_directory, "dense", {}, ("ffn.up",), tmp_path, Rounding(bits=8), "bfloat16")
    held = load_model(made.target, CPU).get_submodule(f"model.layers.{LAYER}.mlp.up_proj").weight
    (exact,) = load_factors(made.placement.file, ("ffn.up",))
    weight = exact.store.dense(0)
    scale = float((weight.abs().max() / 127).bfloat16())
    steps = (weight / scale).round().clamp(-127, 127)
    torch.testing.assert_close(held.detach(), steps * scale)


def test_only_placed_modules_are_rounded(tmp_path: Path) -> None:
    """In GPT-2 q, k and v are one layer: compressing q must leave k and v exact."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=96, n_embd=32, n_layer=2, n_head=4)
    model = tmp_path / "gpt2"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    made = make(model, "dense", {}, ("attention.q",), tmp_path / "x", Rounding(bits=4))
    stores = json.loads((made.target / "config.json").read_text())["tensorpress"]["stores"]
    assert {s["name"]: s["format"] for s in stores} == {
        "attention_q": "rounded", "attention_k": "dense", "attention_v": "dense"
    }  # fmt: skip
    plain = AutoModelForCausalLM.from_pretrained(model)
    ours = load_model(made.target, CPU)
    name = f"transformer.h.{LAYER}.attn.c_attn"
    before, after = (m.get_submodule(name).weight.detach() for m in (plain, ours))
    after = after.mT  # GPT-2 keeps it transposed
    assert torch.equal(before[:, 32:], after[:, 32:])
    assert 0.01 < float((before - after)[:, :32].norm() / before[:, :32].norm()) < 0.3


def test_experts_and_densify(moe_directory: Path, tmp_path: Path) -> None:
    modules = ("experts.gate", "experts.up", "experts.down")
    made = make(moe_directory, "td_moe", {"ratio": 0.3}, modules, tmp_path, Rounding(bits=8))
    ours = load_model(made.target, CPU)
    densify(made.target, tmp_path / "dense")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        found = ours(input_ids=ids).logits
        torch.testing.assert_close(again(input_ids=ids).logits, found, atol=2e-5, rtol=1e-4)
    exact = make(moe_directory, "td_moe", {"ratio": 0.3}, modules, tmp_path / "exact", None)
    with torch.inference_mode():
        unrounded = load_model(exact.target, CPU)(input_ids=ids).logits
    assert 0 < float((found - unrounded).abs().max()) < 0.05


ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorpress":
            raise ImportError("tensorpress is not installed here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForCausalLM
BITS, DTYPES, found = (3, 4, 8), ("float32", "bfloat16"), {}
for bits in BITS:
    for dtype in DTYPES:
        model = AutoModelForCausalLM.from_pretrained(
            f"{sys.argv[1]}/{bits}/out", trust_remote_code=True, dtype=getattr(torch, dtype)
        )
        found[f"{bits} {dtype}"] = model.eval()(input_ids=torch.arange(40)[None]).logits.detach()
torch.save(found, sys.argv[1] + "/logits.pt")
"""


def test_loads_with_transformers_and_bundled_code_alone(
    llama_directory: Path, tmp_path: Path
) -> None:
    for bits in (3, 4, 8):
        chosen = Rounding(bits=bits, group=16)
        make(llama_directory, "svd", {"rank": 12}, FFN, tmp_path / str(bits), chosen, "bfloat16")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, env=environment)
    found = torch.load(tmp_path / "logits.pt")
    assert len(found) == 6
    for name, logits in found.items():
        bits, dtype = name.split()
        ours = load_model(tmp_path / bits / "out", CPU, getattr(torch, dtype))
        with torch.inference_mode():
            torch.testing.assert_close(logits, ours(input_ids=torch.arange(40)[None]).logits)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Params whose files exist in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("queries", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    save_tiny(tiny_llama(), tmp_path / "inputs/tiny")
    (tmp_path / "inputs/text.txt").write_text(tiny_text())
    return tiny_params()


def test_rounding_makes_runs_of_its_own_from_the_same_factors(inputs: dict) -> None:
    exact = inputs["recipes"]["svd"]
    inputs["recipes"]["int4"] = {**exact, "rounding": {"bits": 4}}
    inputs["recipes"]["grouped"] = {**exact, "rounding": {"bits": 4, "group": 64}}
    plan = Plan(parse(inputs))
    runs = {each.recipe: each.run for each in plan.recipe_runs}
    assert len({runs[name].id for name in ("svd", "int4", "grouped")}) == 3
    assert "svd-int4-L1" in runs["int4"].id
    assert "int4" not in runs["svd"].id
    assert runs["int4"].methods == ("svd-whitened", "int4")
    assert runs["int4"].placements == runs["svd"].placements


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rounding", {"bits": 9}, r"recipes\.svd\.rounding\.bits: 9 is not allowed"),
        ("rounding", {"group": 1}, r"recipes\.svd\.rounding\.group: 1 is not allowed"),
        ("steps", [{"modules": ["embedding"], "method": "gptq"}],
         r"methods\.gptq\.method: 'gptq' does not decompose embedding; allowed: attention"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(inputs: dict, path: str, value: object, message: str) -> None:
    inputs["methods"]["gptq"] = {"method": "gptq"}
    inputs["recipes"]["svd"][path] = value
    with pytest.raises(TensorpressError, match=message):
        Plan(parse(inputs))


def test_gptq_reads_the_calibration(inputs: dict) -> None:
    inputs["methods"]["svd"] = {"method": "gptq", "bits": 3}
    plan = Plan(parse(inputs))
    used = {p.decomposition.spec.method: p.decomposition for p in plan.used_decompositions}
    assert used["gptq"].calibration is not None
    assert used["drop"].calibration is None
