"""Tensors of a model that are computed from tensors of its files, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensorpress.errors import TensorpressError
from tensorpress.sources.headers import FLOATING, Stored

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of types in safetensors files."""
_BLOCK_VALUES = 2**22
"""Values that are computed together (``footprint.DEQUANTISED``)."""


@dataclass(frozen=True)
class Weight:
    """A tensor of a model: its shape, the tensors it is made of, and its values.

    ``blocks`` gives rows of the first axis, one block after the other.
    """

    shape: tuple[int, ...]
    parts: tuple[Stored, ...]
    blocks: Callable[[], Iterator[Tensor]]

    @property
    def bits(self) -> int:
        """Bits of its parts in the files."""
        return sum(part.bits for part in self.parts)


class Held:
    """The tensors of a checkpoint's files, of which readers take what they understand."""

    def __init__(self, tensors: Mapping[str, Stored], name: str, scheme: str) -> None:
        self._left, self._where, self._scheme = dict(tensors), f"models.{name}", scheme

    def ending(self, suffix: str) -> list[str]:
        """Names of what is left that end so, without that end."""
        return [name.removesuffix(suffix) for name in self._left if name.endswith(suffix)]

    def take(self, name: str) -> Stored:
        """A tensor, which is there, or else ``TensorpressError``."""
        found = self.take_if_there(name)
        if found is None:
            raise self.refused(
                f"tensor {name} is missing", f"files with every part of weights in {self._scheme}"
            )
        return found

    def take_if_there(self, name: str) -> Stored | None:
        """A tensor, or nothing."""
        return self._left.pop(name, None)

    def of_type(self, name: str, *types: str) -> Stored:
        """A tensor whose numbers are of one of these types, or else ``TensorpressError``."""
        found = self.take(name)
        if found.dtype not in types:
            raise self.refused(
                f"tensor {name} holds numbers of type {found.dtype}", ", ".join(types)
            )
        return found

    def refused(self, what: str, allowed: str) -> TensorpressError:
        """``what`` is wrong with the files."""
        return TensorpressError(f"{self._where}: {what}; allowed: {allowed}")

    def fits(self, name: str, found: Stored, shape: tuple[int, ...]) -> None:
        """Refuse a tensor that has not the shape that its weight asks for."""
        if found.shape != shape:
            raise self.refused(f"tensor {name} has shape {found.shape}", f"{shape}")

    def plain(self) -> dict[str, Weight]:
        """What is left: weights that are not quantised, and whole numbers for who reads them.

        Codes without scales raise ``TensorpressError``.
        """
        for name, stored in self._left.items():
            if stored.dtype not in FLOATING and stored.dtype.startswith("F"):
                raise self.refused(
                    f"tensor {name} holds numbers of type {stored.dtype} and has no scale",
                    f"files with every part of weights in {self._scheme}",
                )
        return {name: plain(stored) for name, stored in self._left.items()}


Reader = Callable[[Held, Mapping[str, Any]], dict[str, Weight]]
"""Takes the quantised weights out of what is held, by the ``quantization_config``."""


def plain(stored: Stored) -> Weight:
    """A weight that is stored as it is."""

    def blocks() -> Iterator[Tensor]:
        return (rows_of(stored, *each) for each in rows(stored.shape))

    return Weight(stored.shape, (stored,), blocks)


def rows(shape: Sequence[int], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Begins and ends of blocks of rows, of some 4 million values, in multiples of so many."""
    count = shape[0] if shape else 1
    width = max(1, math.prod(shape[1:]))
    step = max(1, _BLOCK_VALUES // (width * multiple)) * multiple
    for begin in range(0, count, step):
        yield begin, min(begin + step, count)


def tensor_of(stored: Stored) -> Tensor:
    """A whole tensor, as stored."""
    return rows_of(stored, 0, stored.shape[0] if stored.shape else 1)


def rows_of(stored: Stored, begin: int, end: int) -> Tensor:
    """Rows of the first axis, as stored; only their bytes are read."""
    shape = (end - begin, *stored.shape[1:]) if stored.shape else ()
    if not math.prod(shape):
        return torch.empty(shape, dtype=TYPES[stored.dtype])
    data = bytes_of(stored, begin, end)
    return torch.frombuffer(data, dtype=TYPES[stored.dtype]).reshape(shape)


def bytes_of(stored: Stored, begin: int, end: int) -> bytearray:
    """The bytes of rows of the first axis."""
    row = (stored.end - stored.begin) // (stored.shape[0] if stored.shape else 1)
    data = bytearray((end - begin) * row)
    with stored.path.open("rb") as file:
        file.seek(stored.begin + begin * row)
        file.readinto(data)
    return data
