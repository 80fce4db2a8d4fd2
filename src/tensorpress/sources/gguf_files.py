"""GGUF: what a file's header says of its metadata and tensors. Torch-free.

The layout is that of gguf.md in the docs of ggml, versions 2 and 3. The ``gguf`` package reads the
same, but takes ten seconds for the vocabulary of Gemma 3, at every planning.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.sources.headers import Stored
from tensorpress.sources.weightfiles import has_weights

SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values of metadata that take the same room each, as ``struct`` names them."""
_ALIGNMENT = 32


@dataclass(frozen=True)
class Header:
    """Metadata, of which arrays stand as their lengths, and tensors by the names of the file.

    Shapes are in the order of torch; the type of a tensor is ggml's name for it (``Q4_K``).
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def kind(self) -> str:
        """How the weights are quantised, as files are called: ``Q4_K_M``."""
        from gguf import LlamaFileType

        try:
            stated = LlamaFileType(self.metadata["general.file_type"]).name
        except (KeyError, ValueError):
            return " and ".join(sorted({stored.dtype for stored in self.tensors.values()}))
        return stated.removeprefix("MOSTLY_").removeprefix("ALL_")


def gguf_file(path: Path, where: str) -> Path | None:
    """The GGUF file that a path names, or that its folder has in place of safetensors."""
    if path.is_file() and path.suffix == SUFFIX:
        return path
    if not path.is_dir() or has_weights(path):
        return None
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise TensorpressError(
            f"{where}: {str(path)!r} has {len(files)} GGUF files; allowed: the path of one of "
            f"them, as {str(files[0])!r}"
        )
    return files[0] if files else None


def read_header(path: Path) -> Header:
    """Metadata and tensors of a file; ``DamagedFile`` of one that is cut, or is no GGUF."""
    stat = path.stat()
    return _header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _header(path: Path, size: int, modified: int) -> Header:
    """As it was at that size and time; a vocabulary takes half a second to walk through."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).header()
        except (ValueError, TypeError, KeyError, struct.error, UnicodeDecodeError) as error:
            raise DamagedFile(path, error) from error


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._place = path, data, 0

    def header(self) -> Header:
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin as GGUF files do")
        self._place = 4
        version, tensors, values = self._take("IQQ")
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}, and versions 2 and 3 are read")
        metadata = {}
        for _ in range(values):
            name = self._string()
            metadata[name] = self._value(*self._take("I"))
        found = [self._tensor() for _ in range(tensors)]
        step = metadata.get("general.alignment", _ALIGNMENT)
        start = -(-self._place // step) * step
        stored = {
            name: self._stored(start, shape, kind, offset) for name, shape, kind, offset in found
        }
        return Header(metadata, stored)

    def _take(self, types: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{types}", self._data, self._place)
        self._place += struct.calcsize(f"<{types}")
        return values

    def _string(self) -> str:
        (length,) = self._take("Q")
        text = self._data[self._place : self._place + length]
        self._place += length
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_FIXED[kind])[0]
        inner, count = self._take("IQ")
        if inner == _STRING:
            for _ in range(count):
                (length,) = self._take("Q")
                self._place += length
        else:
            self._place += count * struct.calcsize(f"<{_FIXED[inner]}")
        return count

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        (axes,) = self._take("I")
        shape = self._take(f"{axes}Q")
        kind, offset = self._take("IQ")
        # the axis whose values are adjacent is the first in a file, and the last of torch
        return name, tuple(reversed(shape)), kind, offset

    def _stored(self, start: int, shape: tuple[int, ...], kind: int, offset: int) -> Stored:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        quantised = GGMLQuantizationType(kind)
        values, size = GGML_QUANT_SIZES[quantised]
        begin = start + offset
        end = begin + math.prod(shape) // values * size
        if end > len(self._data):
            raise ValueError("it is cut short: its header lists tensors beyond its end")
        return Stored(self._path, quantised.name, shape, begin, end)
