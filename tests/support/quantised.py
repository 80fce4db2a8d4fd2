"""Tiny checkpoints in the formats that quantised models ship in, each made by an independent route.

A maker rewrites the safetensors of a folder and returns the weights that it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.untrusted import update

Tensors = dict[str, Tensor]
Maker = Callable[[Path], Tensors]
GROUP = 8
"""Values that share a scale, of the 32 inputs of a tiny matrix."""


def _rewritten(folder: Path, settings: dict, coded: Callable[[str, Tensor], tuple]) -> Tensors:
    """Put codes in place of the linear layers of all layers; ``coded`` gives codes and values."""
    held = load_file(folder / "model.safetensors")
    stored, values = {}, {}
    for name, weight in held.items():
        is_linear = weight.ndim == 2 and ".layers." in name and name.endswith(".weight")
        codes, values[name] = coded(name, weight) if is_linear else ({name: weight}, weight)
        stored |= {each: tensor.contiguous() for each, tensor in codes.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    update(folder / "config.json", quantization_config=settings)
    return values


def fp8(folder: Path, block: tuple[int, int] | None = (16, 16)) -> Tensors:
    """Codes and scales block by block, in plain loops; a block at an end may be cut."""

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        high, wide = block or weight.shape
        rows, columns = range(0, weight.shape[0], high), range(0, weight.shape[1], wide)
        codes = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
        scales, values = torch.empty(len(rows), len(columns)), torch.empty_like(weight)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                at = slice(row, row + high), slice(column, column + wide)
                scales[i, j] = weight[at].abs().max() / 448
                codes[at] = (weight[at] / scales[i, j]).to(codes.dtype)
                values[at] = codes[at].float() * scales[i, j]
        scales = scales if block else scales.reshape(())
        return {name: codes, f"{name}_scale_inv": scales}, values

    size = list(block) if block else None
    return _rewritten(folder, {"quant_method": "fp8", "weight_block_size": size}, coded)


def mxfp4(folder: Path) -> Tensors:
    """Random codes of GPT-OSS's experts; the values are those of transformers' own function."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    held = load_file(folder / "model.safetensors")
    values = dict(held)
    generator = torch.Generator().manual_seed(0)
    for name in [n for n in held if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, out = held.pop(name).shape
        sizes = (experts, out, inputs // 32)
        blocks = torch.randint(256, (*sizes, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 126, sizes, generator=generator, dtype=torch.uint8)
        held |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        values[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    update(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return values


def _grouped(weight: Tensor, bits: int, groups: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``(in, out)``, scales and zeros ``(groups, out)`` of a weight ``(out, in)``."""
    inputs = weight.T
    count = max(groups) + 1
    scales, zeros = torch.empty(count, len(weight)), torch.empty(count, len(weight), dtype=int)
    for group in range(count):
        own = inputs[[i for i, each in enumerate(groups) if each == group]]
        low, high = own.amin(0).clamp(max=0), own.amax(0).clamp(min=0)
        scales[group] = ((high - low) / (2**bits - 1)).half().float()
        zeros[group] = (-low / scales[group]).round()
    codes = (inputs / scales[groups] + zeros[groups]).round().clamp(0, 2**bits - 1).int()
    return codes, scales, zeros.int()


def _words(numbers: Tensor, bits: int, order: list[int]) -> Tensor:
    """Numbers of the last axis as 32-bit words, in plain loops; ``order``: which are in a word."""
    each = 32 // bits
    made = torch.zeros(*numbers.shape[:-1], numbers.shape[-1] // each, dtype=torch.int64)
    for word in range(made.shape[-1]):
        for place, which in enumerate(order):
            made[..., word] |= numbers[..., each * word + which].long() << (bits * place)
    return torch.where(made >= 2**31, made - 2**32, made).int()


def gptq(folder: Path, bits: int = 4, v2: bool = False, act_order: bool = False) -> Tensors:
    """As AutoGPTQ packs: codes down the inputs, zeros along the outputs, less one but in v2."""

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        groups = [i // GROUP for i in range(weight.shape[1])]
        if act_order:
            order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))
            groups = [groups[i] for i in order.tolist()]
        codes, scales, zeros = _grouped(weight, bits, groups)
        values = (codes - zeros[groups]) * scales[groups]
        module, order = name.removesuffix(".weight"), list(range(32 // bits))
        kept = zeros if v2 else (zeros - 1) % 2**bits
        made = {
            "qweight": _words(codes.T, bits, order).T,
            "qzeros": _words(kept, bits, order),
            "scales": scales.half(),
            "g_idx": torch.tensor(groups, dtype=torch.int32),
        }
        return {f"{module}.{part}": tensor for part, tensor in made.items()}, values.T

    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order}
    if v2:
        settings["checkpoint_format"] = "gptq_v2"
    return _rewritten(folder, settings, coded)


def awq(folder: Path) -> Tensors:
    """As ``WQLinear_GEMM.from_linear`` packs: outputs in the order 0, 2, 4, 6, 1, 3, 5, 7."""

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        groups = [i // GROUP for i in range(weight.shape[1])]
        codes, scales, zeros = _grouped(weight, 4, groups)
        values = (codes - zeros[groups]) * scales[groups]
        module, order = name.removesuffix(".weight"), [0, 2, 4, 6, 1, 3, 5, 7]
        made = {
            "qweight": _words(codes, 4, order),
            "qzeros": _words(zeros, 4, order),
            "scales": scales.half(),
        }
        return {f"{module}.{part}": tensor for part, tensor in made.items()}, values.T

    settings = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    return _rewritten(folder, settings, coded)


def compressed(folder: Path, form: str, **arguments: object) -> Tensors:
    """What the library itself compresses and decompresses, whole matrices at a time."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
    compressor = BaseCompressor.get_value_from_registry(form)

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        size = scheme.weights.group_size or weight.shape[1]
        high, wide = scheme.weights.block_structure or (1, size)
        parts = weight.unflatten(0, (-1, high)).unflatten(2, (-1, wide))
        scales, zeros = calculate_qparams(parts.amin((1, 3)), parts.amax((1, 3)), scheme.weights)
        given = {"weight": weight, "weight_scale": scales.to(weight), "weight_zero_point": zeros}
        made = compressor.compress(given, scheme)
        module = name.removesuffix(".weight")
        stored = {f"{module}.{part}": tensor for part, tensor in made.items()}
        return stored, compressor.decompress(made, scheme)["weight"]

    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
        "ignore": ["lm_head"],
    }
    return _rewritten(folder, settings, coded)


def four_bits(folder: Path, kind: str = "nf4", nested: bool = False) -> Tensors:
    """What bitsandbytes quantises and dequantises on the CPU."""
    from bitsandbytes import functional

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        # as one row: on the CPU 0.50 dequantises blocks wrongly that go over the end of one
        codes, state = functional.quantize_4bit(
            weight.reshape(1, -1), blocksize=64, quant_type=kind, compress_statistics=nested
        )
        values = functional.dequantize_4bit(codes, state).reshape(weight.shape)
        state.shape = weight.shape
        parts = {f"{name}.{part}": each for part, each in state.as_dict(packed=True).items()}
        return {name: codes, **parts}, values

    settings = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": nested,
    }  # fmt: skip
    return _rewritten(folder, settings, coded)


def eight_bits(folder: Path) -> Tensors:
    """What bitsandbytes quantises to int8 and dequantises on the CPU."""
    from bitsandbytes import functional

    def coded(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        module = name.removesuffix(".weight")
        parts = {f"{module}.SCB": scales, f"{module}.weight_format": torch.tensor(0).byte()}
        return {name: codes, **parts}, functional.int8_vectorwise_dequant(codes, scales)

    return _rewritten(folder, {"quant_method": "bitsandbytes", "load_in_8bit": True}, coded)
