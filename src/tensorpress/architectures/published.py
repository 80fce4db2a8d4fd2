"""Super weights by their coordinates: as ``params.yaml`` writes them, and the published ones.

Torch-free. Coordinates are those of Yu et al. 2024, "The Super Weight in Large Language Models"
(arXiv 2411.07191), and of the study; layers count from 0.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import MODULES
from tensorpress.keying.section import Section

DOWN = "ffn.down"
"""The module whose entries can be super weights."""


def _known(module: str) -> str:
    if module not in MODULES:
        raise ValueError(f"allowed: {', '.join(MODULES)}")
    return module


class SuperWeight(Section):
    """One entry of a module's matrix ``(out, in)``: output channel ``row``, input ``column``."""

    layer: int = Field(ge=0)
    module: Annotated[str, AfterValidator(_known)] = DOWN
    row: int = Field(ge=0)
    column: int = Field(ge=0)


Sizes = tuple[int | None, ...]
"""Hidden size, FFN size, layers and vocabulary: what a published model is recognised by."""

PUBLISHED: dict[str, tuple[Sizes, tuple[tuple[int, int, int], ...]]] = {
    "Llama-7B": ((4096, 11008, 32, 32000), ((2, 3968, 7003),)),
    "Llama-13B": ((5120, 13824, 40, 32000), ((2, 2231, 2278), (2, 2231, 6939))),
    "Llama-30B": (
        (6656, 17920, 60, 32000),
        ((3, 5633, 12817), (3, 5633, 17439), (10, 5633, 14386)),
    ),
    "Llama-2-7B": ((4096, 11008, 32, 32000), ((1, 2533, 7890),)),
    "Llama-3-8B": ((4096, 14336, 32, 128256), ((1, 788, 2427), (1, 1384, 2427), (1, 4062, 2427))),
    "Mistral-7B": ((4096, 14336, 32, 32000), ((1, 2070, 7310),)),
    "OLMo-1B-0724": ((2048, 8192, 16, 50304), ((1, 1764, 1710), (2, 1764, 8041))),
}
"""Model -> its sizes, and (layer, row, column) of its super weights in ``ffn.down``."""


def published(architecture: Architecture) -> dict[SuperWeight, str]:
    """Super weights published for models of these sizes -> names of the models.

    Sizes do not tell Llama-7B from Llama-2-7B: both are offered, and the finder says which hold.
    """
    sizes = _sizes(architecture)
    return {
        SuperWeight(layer=layer, row=row, column=column): name
        for name, (known, places) in PUBLISHED.items()
        if known == sizes
        for layer, row, column in places
    }


def _sizes(architecture: Architecture) -> Sizes:
    named = (architecture.size(what) for what in ("hidden", "inner", "layers"))
    return (*named, architecture.config.get("vocab_size"))
