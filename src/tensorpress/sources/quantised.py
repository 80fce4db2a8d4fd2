"""Weights that a checkpoint holds as codes and scales: what its config says of them. Torch-free.

What is read is dequantised at the fetch (``checkpoints.quantised``); the rest is refused here, by
its ``quantization_config``, while planning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.sources.weightfiles import held_tensors

UNKEYED = "names of what reads a quantisation; each is part of a key where it is used"

DECLARED = "quantization_config"
ORIGIN = "source.json"
"""File beside weights that were other numbers before they were fetched (``Origin``)."""
_PACKAGE = "tensorpress.checkpoints.quantised"


@dataclass(frozen=True)
class _Scheme:
    """A ``quant_method``: what reads it, the settings that are read, and what it is called."""

    reader: str
    allowed: Mapping[str, tuple[Any, ...]]
    """Setting -> its allowed values; ``None`` is one that is not given."""
    described: Callable[[Mapping[str, Any]], str]


def _in_groups(name: str) -> Callable[[Mapping[str, Any]], str]:
    def described(settings: Mapping[str, Any]) -> str:
        size = settings.get("group_size", -1)
        groups = "one group a row" if size == -1 else f"groups of {size}"
        return f"{name}, {settings['bits']} bits in {groups}"

    return described


def _fp8(settings: Mapping[str, Any]) -> str:
    block = settings.get("weight_block_size")
    return f"FP8 in blocks of {block[0]} x {block[1]}" if block else "FP8, one scale a matrix"


def _bitsandbytes(settings: Mapping[str, Any]) -> str:
    kind = settings["bnb_4bit_quant_type"] if settings.get("load_in_4bit") else "8 bits"
    return f"bitsandbytes, {kind}"


_SCHEMES: dict[str, _Scheme] = {
    "fp8": _Scheme(f"{_PACKAGE}.fp8:weights", {"fmt": (None, "e4m3")}, _fp8),
    "mxfp4": _Scheme(f"{_PACKAGE}.mxfp4:weights", {}, lambda _: "MXFP4"),
    "gptq": _Scheme(
        f"{_PACKAGE}.gptq:weights",
        {"bits": (2, 4, 8), "checkpoint_format": (None, "gptq", "gptq_v2"), "dynamic": (None, {})},
        _in_groups("GPTQ"),
    ),
    "awq": _Scheme(
        f"{_PACKAGE}.awq:weights",
        {"bits": (4,), "version": (None, "gemm", "GEMM"), "zero_point": (None, True)},
        _in_groups("AWQ"),
    ),
    "compressed-tensors": _Scheme(
        f"{_PACKAGE}.compressed:weights",
        {"format": ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")},
        lambda settings: f"compressed-tensors, {settings['format']}",
    ),
    "bitsandbytes": _Scheme(f"{_PACKAGE}.bitsandbytes:weights", {}, _bitsandbytes),
}


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a checkpoint are quantised, by its config."""

    settings: Mapping[str, Any]
    """The ``quantization_config``."""
    reader: str
    """``module:function`` of ``checkpoints.quantised``."""
    described: str
    """In words, for tables and reports."""


@dataclass(frozen=True)
class Origin:
    """What a fetched model's weights were in the files that it comes from.

    ``bits`` are those of the files' own tensors, scales and zero points included, of every weight
    that the model runs with, once. ``quantisation``: in words; ``None`` of plain numbers.
    """

    bits: int
    quantisation: str | None

    @classmethod
    def of(cls, directory: Path) -> Origin:
        """That of a fetched or transformed checkpoint; its own tensors, if nothing else is said."""
        if (directory / ORIGIN).is_file():
            return cls(**json.loads((directory / ORIGIN).read_text(encoding="utf-8")))
        return cls(
            sum(each.bits for each in held_tensors(directory, str(directory)).values()), None
        )

    def write(self, directory: Path) -> None:
        """Write ``source.json``."""
        (directory / ORIGIN).write_text(json.dumps(vars(self)), encoding="utf-8")


def quantisation(config: Mapping[str, Any], where: str) -> Quantisation | None:
    """What a ``config.json`` says of codes; ``None`` of a model of plain weights.

    A method, or a setting of it, that is not read raises ``TensorpressError``.
    """
    declared = config.get(DECLARED)
    if declared is None:
        return None
    known = declared.get("quant_method") if isinstance(declared, Mapping) else None
    scheme, method = _SCHEMES.get(str(known)), known or declared
    if scheme is None:
        raise TensorpressError(
            f"{where}: config.json: {DECLARED}: weights quantised with {method!r} are not read; "
            f"allowed: {', '.join(_SCHEMES)}, GGUF files, and weights of 16 or 32 bits, which "
            "transformers writes after loading them so (from_pretrained with a "
            "quantization_config of dequantize=True, or model.dequantize(); then save_pretrained)"
        )
    for setting, allowed in scheme.allowed.items():
        if declared.get(setting) not in allowed:
            values = ", ".join(str(value) for value in allowed if value is not None)
            raise TensorpressError(
                f"{where}: config.json: {DECLARED}: {setting}: {declared.get(setting)!r} is not "
                f"read of {method}; allowed: {values or 'none'}"
            )
    try:
        words = scheme.described(declared)
    except (KeyError, TypeError, IndexError) as error:
        raise TensorpressError(
            f"{where}: config.json: {DECLARED}: {dict(declared)!r} is not allowed; allowed: the "
            f"settings of {method} as transformers writes them"
        ) from error
    return Quantisation(declared, scheme.reader, words)


def dequantised_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config of the same model with plain weights of ``dtype``."""
    plain = {key: value for key, value in config.items() if key not in (DECLARED, "torch_dtype")}
    return {**plain, "dtype": dtype}
