"""Models spread over devices: a layer in memory, the others on disk, and the same numbers.

Two kinds of "device" that a machine without a GPU has: ``cpu`` where modules run, and ``disk``
from which whole layers are brought for each pass. The hooks are those of several GPUs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import SIZES
from support.recovery import LLAMA, MOE, recovered
from support.stages import calibrated, compress, placed
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.config.params import Rounding
from tensorpress.formats.base import STORES
from tensorpress.running import placement
from tensorpress.running.oom import CPU
from tensorpress.running.placement import (
    device_map,
    dispatch,
    is_dispatched,
    is_spilled,
    place,
    withdraw,
)
from tensorpress.stages import calibration
from tensorpress.stages.assembly import assemble

IDS = torch.randint(90, (2, 20), generator=torch.Generator().manual_seed(0))


def spread(model: Any, folder: Path) -> Any:
    """What surrounds the layers and the first of them in memory, all other layers on disk."""
    names = dict(model.named_modules())
    # what must not be split may be an embedding too
    whole = [p for p, m in names.items() if type(m).__name__ in model._no_split_modules]
    layers = [p for p in whole if p.rpartition(".")[2].isdigit()]
    above = {layers[0].rsplit(".", depth)[0] for depth in range(layers[0].count(".") + 1)} - {
        layers[0]
    }
    around = (p for p in names if p and p.rpartition(".")[0] in {"", *above})
    found = {p: "disk" if p in layers[1:] else "cpu" for p in around if p not in above}
    return dispatch(model, found, "cpu", folder)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def check(directory: Path, folder: Path) -> None:
    """The same logits spread as whole, and again when it is whole again."""
    model = load_model(directory, CPU)
    expected = logits(model)
    spread(model, folder)
    assert is_spilled(model)
    assert any(p.is_meta for p in model.parameters())
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), expected)
    place(model, CPU)
    assert not is_dispatched(model)
    assert not any(p.is_meta for p in model.parameters())
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("kind", [k for k in SIZES if k in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES])
def test_every_family(kind: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(kind, vocab_size=96, **SIZES[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    check(tmp_path / "model", tmp_path / "disk")


@pytest.mark.parametrize("case", LLAMA, ids=lambda case: case[0])
def test_every_format(llama_directory: Path, tmp_path: Path, case: tuple) -> None:
    compress(llama_directory, *case, tmp_path)
    check(tmp_path / "out", tmp_path / "disk")


@pytest.mark.parametrize("case", MOE, ids=lambda case: case[0])
def test_factored_experts(moe_directory: Path, tmp_path: Path, case: tuple) -> None:
    compress(moe_directory, *case, tmp_path)
    check(tmp_path / "out", tmp_path / "disk")


def test_rounded_factors(llama_directory: Path, tmp_path: Path) -> None:
    _, placement, _ = compress(llama_directory, "svd", {"rank": 5}, "ffn", tmp_path)
    rounding = Rounding(bits=4, group_size=8)
    assemble(llama_directory, [placement], "float32", tmp_path / "rounded", rounding)
    check(tmp_path / "rounded", tmp_path / "disk")


def test_adapters(llama_directory: Path, tmp_path: Path) -> None:
    recovered(llama_directory, LLAMA[0], tmp_path)
    check(tmp_path / "recovered", tmp_path / "disk")


def with_embedding(model: Path, folder: Path) -> Any:
    """A model whose embedding is factored: the model itself, not a layer, holds the factors."""
    from tensorpress.checkpoints.factorfile import save_factors
    from tensorpress.methods.registry import load
    from tensorpress.stages.decomposition import decompose_layer

    layer = Checkpoint.open(model).architecture.outer
    spec = load("svd").Spec(method="svd", rank=8)
    factors, _, _ = decompose_layer(model, spec, "embedding", layer, None, CPU)
    save_factors(factors, folder / "factors.safetensors")
    placement = placed(layer, ("embedding",), spec, folder / "factors.safetensors")
    assemble(model, [placement], "float32", folder / "out")
    return load_model(folder / "out", CPU)


def test_factors_of_the_embedding_go_first(llama_directory: Path, tmp_path: Path) -> None:
    model = with_embedding(llama_directory, tmp_path)
    expected = logits(model)
    size = placement.stored_bytes(model)
    devices = device_map(model, {"cpu": size // 2, "disk": 2 * size})
    assert devices[STORES] == "cpu"
    assert "disk" in devices.values()
    assert torch.equal(logits(dispatch(model, devices, "cpu", tmp_path / "disk")), expected)


def test_layers_are_never_split(llama_directory: Path) -> None:
    model = load_model(llama_directory, CPU)
    size = placement.stored_bytes(model)
    for share in (4, 5, 6):
        devices = device_map(model, {"cpu": share * size // 7, "disk": size})
        assert not any(path.count(".") > 2 for path in devices), devices
        assert set(devices.values()) == {"cpu", "disk"}


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_calibration_of_a_spread_model(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = request.getfixturevalue(f"{kind}_directory")
    expected = calibrated(directory, IDS, 1)
    model = load_model(directory, CPU)
    monkeypatch.setattr(calibration, "place", lambda model, device: spread(model, tmp_path))
    found = calibrated(directory, IDS, 1, model)
    assert is_spilled(model)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_that_may_not_spill_goes_to_the_cpu(
    llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(placement, "_room", lambda index: 1)
    said: list[str] = []
    monkeypatch.setattr(placement, "warn", said.append)
    model = load_model(llama_directory, torch.device("cuda"), spill=False)
    assert model.device == CPU
    assert len(said) == 1


def test_a_model_that_may_spill_is_spread(
    llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(placement, "_room", lambda index: 1)
    spreads: list[tuple[dict, int]] = []

    def noted(model: torch.nn.Module, devices: dict, main: int) -> torch.nn.Module:
        spreads.append((devices, main))
        return model

    monkeypatch.setattr(placement, "dispatch", noted)
    load_model(llama_directory, torch.device("cuda"))
    ((devices, main),) = spreads
    assert main == 0
    assert set(devices.values()) == {"cpu"}


def test_withdrawn_models_move_again(llama_directory: Path, tmp_path: Path) -> None:
    model = load_model(llama_directory, CPU)
    spread(model, tmp_path)
    withdraw(model)
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
