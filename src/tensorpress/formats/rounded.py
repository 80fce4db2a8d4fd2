"""Any format with its factors rounded: codes of 2 to 8 bits and their scales are what is stored."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .base import Format
from .rounding import dequantise, pack, packed_bytes, quantise, scales_of, unpack
from .subset import Subset


class Rounded(Format):
    """``<factor>_codes`` (packed, uint8) and ``<factor>_scales`` for each factor of ``inner``.

    Tensors that the inner format calls exact, and its buffers, stand as they are. Each call
    decodes the factors, runs the inner format with them and drops them, so that a layer's decoded
    factors are in memory for the length of one call only; the price is the time of decoding. Names
    of factors in a format inside of the inner one have ``__`` for the point.
    """

    name = "rounded"
    exact = ("",)  # codes are not rounded again
    _calls: _Calls

    def __init__(self, *, inner: Format, bits: int, group_size: int | None) -> None:
        super().__init__(
            slices=inner.slices, out_features=inner.out_features, in_features=inner.in_features
        )
        self.settings = {"inner": inner.description, "bits": bits, "group_size": group_size}
        self.bits, self.group_size = bits, group_size
        shapes = _without_values(inner)
        # not registered: its factors hold no values
        object.__setattr__(self, "_calls", _Calls(shapes))
        self.factors = factors_to_round(shapes)
        for name, shape in self.factors.items():
            count = math.prod(shape)
            size = packed_bytes(count, bits)
            self.register_buffer(f"{_own(name)}_codes", torch.zeros(size, dtype=torch.uint8))
            self.factor(f"{_own(name)}_scales", (-(-count // (group_size or count)),))
        for name, value in shapes.state_dict().items():
            if name not in self.factors and value.is_floating_point():
                self.factor(_own(name), tuple(value.shape))
            elif name not in self.factors:
                self.register_buffer(_own(name), torch.zeros(value.shape, dtype=value.dtype))

    @property
    def inner(self) -> Format:
        """The inner format, on the meta device: it knows shapes and costs, not values."""
        return self._calls.inner

    def decoded(self) -> dict[str, Tensor]:
        """The inner format's tensors by name, in the dtype of the scales."""
        values = {}
        for name in self.inner.state_dict():
            own = _own(name)
            if name not in self.factors:
                values[name] = getattr(self, own)
                continue
            shape, scales = self.factors[name], getattr(self, f"{own}_scales")
            codes = unpack(getattr(self, f"{own}_codes"), self.bits, math.prod(shape))
            values[name] = dequantise(codes, scales, self.bits, self.group_size).view(shape)
        return values

    def project(self, x: Tensor, index: int) -> Tensor:
        return self._call("project", x, index)

    def dense(self, index: int) -> Tensor:
        return self._call("dense", index)

    def rows(self, ids: Tensor, index: int) -> Tensor:
        return self._call("rows", ids, index)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return self._call("project_grouped", x, ends)

    def stacked(self) -> Tensor:
        return self._call("stacked")

    def macs(self) -> int:
        return self.inner.macs()

    def peak_rebuilt_values(self) -> int:
        return self.inner.peak_rebuilt_values() + sum(map(math.prod, self.factors.values()))

    def matrix_shape(self, index: int) -> tuple[int, int]:
        return self.inner.matrix_shape(index)

    def packed(self) -> dict[str, tuple[int, int]]:
        codes = {f"{_own(n)}_codes": (math.prod(s), self.bits) for n, s in self.factors.items()}
        return codes | {_own(name): size for name, size in self.inner.packed().items()}

    def _call(self, method: str, *arguments: Any) -> Tensor:
        values = {f"inner.{name}": value for name, value in self.decoded().items()}
        result: Tensor = functional_call(self._calls, values, (method, *arguments))
        return result


class _Calls(nn.Module):
    """Makes any method of a format a ``forward``, which is what ``functional_call`` calls."""

    inner: Format

    def __init__(self, inner: Format) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, method: str, *arguments: Any) -> Tensor:
        """The result of the format's ``method``."""
        result: Tensor = getattr(self.inner, method)(*arguments)
        return result


def rounded(store: Format, bits: int, group_size: int | None, scales: torch.dtype) -> Format:
    """``store`` with its factors rounded to nearest, its scales being values of that dtype.

    A store that is rounded already, or has nothing to round, is given back as it is. Of a subset
    each part is rounded, for parts are what layers run. On the meta device the result has the right
    shapes, for counting.
    """
    if isinstance(store, Subset):
        parts = [rounded(part, bits, group_size, scales) for part in store.parts]
        return store.with_parts(parts)
    shapes = factors_to_round(store)
    if not shapes:
        return store
    result = Rounded(inner=store, bits=bits, group_size=group_size)
    values = {}
    for name, value in store.state_dict().items():
        if name not in shapes:
            values[_own(name)] = value
            continue
        # codes are nearest under the scales as stored, so that storing them loses nothing more
        scale = scales_of(value, bits, group_size).to(scales).to(value.dtype)
        codes = quantise(value, scale, bits, group_size)
        values |= {f"{_own(name)}_codes": pack(codes, bits), f"{_own(name)}_scales": scale}
    return result.fill(**values)


def factors_to_round(store: Format) -> dict[str, tuple[int, ...]]:
    """Name and shape of the factors that rounding may change: all but those called exact."""
    return {
        f"{path}.{name}".removeprefix("."): tuple(value.shape)
        for path, owner in store.named_modules()
        for name, value in owner.named_parameters(recurse=False)
        if not name.startswith(owner.exact if isinstance(owner, Format) else ())
    }


def _without_values(store: Format) -> Format:
    """A copy on the meta device; ``store`` keeps its values, of which none is copied."""
    empty: dict[int, Any] = {
        id(factor): nn.Parameter(factor.to("meta"), requires_grad=False)
        for factor in store.parameters()
    }
    empty |= {id(buffer): buffer.to("meta") for buffer in store.buffers()}
    return copy.deepcopy(store, empty)


def _own(name: str) -> str:
    return name.replace(".", "__")
