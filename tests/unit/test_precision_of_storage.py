"""Values that the storage dtype cannot hold are an error, never an infinity or a lost tensor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.recovery import FAST, WINDOWS
from support.stages import FFN, make
from torch import Tensor

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.storage_range import LOSS, stored_as
from tensorpress.commands.densify import densify
from tensorpress.config.recovery import Adapters
from tensorpress.errors import TensorpressError
from tensorpress.methods.rounding import Rounding
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.stages.recovery import recover
from tensorpress.stages.recovery_checkpoint import write_recovered

NAME = "model.layers.1.mlp.up_proj.weight"


def scaled(folder: Path, factor: float) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, NAME: factor * tensors[NAME]}, folder / "model.safetensors")
    return folder


def spread(largest: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 48, generator=generator)
    return values * (largest / values.abs().max())


def test_one_value_too_large_is_named(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 3] = -1e5
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(TensorpressError) as caught:
        assemble(copy, [], "float16", tmp_path / "half")
    assert str(caught.value) == (
        "storage.dtype: float16 cannot hold model.embed_tokens.weight, whose values are up to "
        "100000 (it holds 6.1e-05 to 65504 in full); allowed: float32, bfloat16"
    )
    for dtype in ("bfloat16", "float32"):
        assemble(copy, [], dtype, tmp_path / dtype)
        kept = load_file(tmp_path / dtype / "model.safetensors")["model.embed_tokens.weight"]
        assert float(kept[7, 3]) == pytest.approx(-1e5, rel=2**-8)


def test_limits_of_every_dtype() -> None:
    largest = torch.finfo(torch.float32).max
    assert float(stored_as("w", torch.tensor([65504.0]), torch.float16)) == 65504.0
    with pytest.raises(TensorpressError, match=r"bfloat16 cannot hold w, .*; allowed: float32$"):
        stored_as("w", torch.tensor([largest]), torch.bfloat16)
    assert float(stored_as("w", torch.tensor([largest]), torch.float32)) == largest
    for value in (float("nan"), float("inf")):
        with pytest.raises(TensorpressError, match="w has NaN or infinite values"):
            stored_as("w", torch.tensor([1.0, value]), torch.float16)
    for dtype in (torch.float16, torch.bfloat16):
        assert stored_as("w", torch.zeros(3), dtype).dtype == dtype
        assert stored_as("w", torch.zeros(0), dtype).shape == (0,)


@pytest.mark.parametrize("largest", [1.0, 1e-3, 1e-4, 3e-5, 1e-5, 1e-6, 1e-8, 1e-25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_too_small_is_told_by_what_is_lost(largest: float, dtype: torch.dtype) -> None:
    values = spread(largest).to(dtype)
    lost = (values.half().double() - values.double()).norm() / values.double().norm()
    if lost > LOSS:
        with pytest.raises(TensorpressError, match=r"float16 cannot hold w, whose values are none"):
            stored_as("w", values, torch.float16)
    else:
        assert torch.equal(stored_as("w", values, torch.float16), values.half())
    assert (lost > LOSS) == (largest < 5e-5)
    assert torch.equal(stored_as("w", values, torch.bfloat16), values.bfloat16())


def test_a_few_small_values_are_no_loss() -> None:
    values = torch.cat([spread(1.0), spread(1e-7)])
    assert torch.equal(stored_as("w", values, torch.float16), values.half())


@pytest.mark.parametrize("factor", [1e18, 1e-16])
@pytest.mark.parametrize("rounding", [None, Rounding(bits=8), Rounding(bits=4, group_size=32)])
def test_factors_and_their_scales(copy: Path, tmp_path: Path, factor: float, rounding) -> None:
    scaled(copy, factor)
    with pytest.raises(TensorpressError, match=r"storage.dtype: float16 cannot hold .*up"):
        make(copy, "svd", {"rank": 5}, FFN, tmp_path / "half", rounding, "float16")
    make(copy, "svd", {"rank": 5}, FFN, tmp_path / "b", rounding, "bfloat16")


def test_what_no_dtype_can_hold() -> None:
    """Weights may be stored in float64."""
    with pytest.raises(
        TensorpressError, match=r"up to 1e\+39 .*; allowed: smaller values, for no st"
    ):
        stored_as("w", torch.tensor([1e39], dtype=torch.float64), torch.float32)


def test_adapters(llama_directory: Path, tmp_path: Path) -> None:
    made = make(llama_directory, "svd", {"rank": 5}, FFN, tmp_path)
    spec, architecture = Adapters(**FAST), Checkpoint.open(llama_directory).architecture
    adapters = recover(load_model(made.target, CPU), architecture, WINDOWS, spec, 0, CPU)
    first = next(iter(adapters))
    adapters[first].left.data.mul_(1e9)
    with pytest.raises(TensorpressError, match=re.escape(f"float16 cannot hold {first}.")):
        write_recovered(
            made.target, adapters, spec, "float16", made.storage, tmp_path / "recovered"
        )


def test_matrices_that_only_factors_can_hold(copy: Path, tmp_path: Path) -> None:
    scaled(copy, 3e6)
    made = make(copy, "svd", {"rank": 32}, FFN, tmp_path / "made", None, "float16")
    with pytest.raises(TensorpressError, match=r"up_proj\.weight, rebuilt in float16, has inf"):
        densify(made.target, tmp_path / "dense")
