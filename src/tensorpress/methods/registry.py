"""Method name -> module: the one place where a new method is listed. Torch-free."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from tensorpress.methods.base import MethodSpec

UNKEYED = "the methods of a study are entries of their own in the keys (identities.py)"

METHODS: dict[str, str] = {
    "dense": "tensorpress.methods.dense",
    "drop": "tensorpress.methods.drop",
    "svd": "tensorpress.methods.svd",
    "tt": "tensorpress.methods.tt",
    "tt_sparse": "tensorpress.methods.tt_sparse",
    "tt_per_head": "tensorpress.methods.tt_per_head",
    "tucker_per_head": "tensorpress.methods.tucker_per_head",
    "tucker_qkvo": "tensorpress.methods.tucker_qkvo",
    "tucker_qkvo_separate": "tensorpress.methods.tucker_qkvo_separate",
    "tucker_ffn": "tensorpress.methods.tucker_ffn",
    "sparse_tucker": "tensorpress.methods.sparse_tucker",
    "td_moe": "tensorpress.methods.td_moe",
    "cp": "tensorpress.methods.cp",
    "mobe": "tensorpress.methods.mobe",
    "advised": "tensorpress.methods.advised",
    "heads": "tensorpress.methods.heads",
    "neurons": "tensorpress.methods.neurons",
    "gptq": "tensorpress.methods.gptq",
    "sparse": "tensorpress.methods.sparse",
    "sparse_plus_low_rank": "tensorpress.methods.sparse_plus_low_rank",
    "quantised_plus_correction": "tensorpress.methods.quantised_plus_correction",
}


def load(method: str) -> ModuleType:
    """The method's module, with ``Spec``, ``EXAMPLE`` (small settings of it) and ``decompose``."""
    return import_module(METHODS[method])


def spec_class(method: str) -> type[MethodSpec]:
    """The settings class of a method."""
    spec: type[MethodSpec] = load(method).Spec
    return spec
