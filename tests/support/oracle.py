"""The independent oracle in ../shared/golden (its README states the tolerances)."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest
import torch

from support.workspace import SHARED
from tensorpress.files import storage
from tensorpress.formats.base import Format

GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is missing")
DATA = json.loads((GOLDEN / "golden.json").read_text()) if GOLDEN.is_dir() else {}
DATA2 = json.loads((GOLDEN / "golden2.json").read_text()) if GOLDEN.is_dir() else {}


def inputs(name: str = "inputs") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor_of(expression: str) -> torch.Tensor:
    """The input that a golden entry names, such as ``mixed(11,96,288)``."""
    made = eval(expression, vars(inputs()))
    return torch.tensor(made[0] if isinstance(made, tuple) else made)


def tensor2_of(expression: str) -> torch.Tensor:
    """The same of ``golden2.json``."""
    return torch.tensor(eval(expression, vars(inputs("golden2_inputs"))).copy())


def stacked_error(stores, weights: torch.Tensor) -> float:
    rebuilt = torch.stack([stores.dense(i) for i in range(weights.shape[0])])
    return float((rebuilt.double() - weights.double()).norm() / weights.double().norm())


def bits_of(store: Format) -> int:
    """Bits of a factor set at 16 bits a value."""
    return storage.bits(storage.stored_tensors(store, 0, replaced=True).values(), 16)
