"""What safetensors files say they hold, and copies of them with other names. Torch-free.

A copy goes through memory in small blocks, whatever the size of a tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tensorpress.errors import DamagedFile

FLOATING = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Types of weights that are read, and their bytes."""
_BLOCK = 2**24
_LENGTH = 8
"""Bytes of the number that says how long the header is."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its type and shape, and where its bytes begin and end."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bits(self) -> int:
        """Its bits in the file."""
        return 8 * (self.end - self.begin)

    @property
    def flat(self) -> Stored:
        """The same values in one axis."""
        return replace(self, shape=(math.prod(self.shape),))

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks."""
        with self.path.open("rb") as file:
            yield from _blocks(file, self.begin, self.end)


def tensors_in(path: Path) -> dict[str, Stored]:
    """Every tensor of a file by name; ``DamagedFile`` if it is cut short."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(_LENGTH), "little")
            size, start = path.stat().st_size, _LENGTH + length
            if start > size:
                raise ValueError("the header is cut short")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            found = {name: _stored(path, entry, start) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedFile(path, error) from error
    if max((each.end for each in found.values()), default=start) != size:
        raise DamagedFile(path, "its length is not what its header says")
    return found


def same_bytes(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same values of the same type."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(one.blocks(), other.blocks(), strict=True))


def rewrite(tensors: Mapping[str, Stored], target: Path) -> None:
    """Write tensors, of files of any names, into one new file under these names."""
    # the widest first, as safetensors writes them, so that every tensor is aligned
    order = sorted(tensors, key=lambda name: (-FLOATING.get(tensors[name].dtype, 1), name))
    header, place = {}, 0
    for name in order:
        stored = tensors[name]
        end = place + stored.end - stored.begin
        header[name] = {
            "dtype": stored.dtype,
            "shape": stored.shape,
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for name in order:
            file.writelines(tensors[name].blocks())


def _stored(path: Path, entry: dict[str, object], start: int) -> Stored:
    begin, end = (start + int(offset) for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    shape = tuple(int(side) for side in entry["shape"])  # type: ignore[attr-defined]
    return Stored(path, str(entry["dtype"]), shape, begin, end)


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    file.seek(begin)
    for start in range(begin, end, _BLOCK):
        yield file.read(min(_BLOCK, end - start))
