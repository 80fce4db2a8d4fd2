"""Where second moments are taken, and how many at a time. Torch-free.

Modules that read the same activations (q, k and v; gate and up) share one moment, kept under
the first of them, its *site*.
"""

from __future__ import annotations

from collections.abc import Sequence

from tensorpress.architectures.layers import LayerShape

SITES = {
    "attention.q": ("attention.q", "attention.k", "attention.v"),
    "attention.o": ("attention.o",),
    "attention.q_down": ("attention.q_down", "attention.kv_down"),
    "attention.q_up": ("attention.q_up",),
    "attention.kv_up": ("attention.kv_up",),
    "ffn.gate": ("ffn.gate", "ffn.up"),
    "ffn.down": ("ffn.down",),
    "experts.gate": ("experts.gate", "experts.up"),
    "experts.down": ("experts.down",),
    "embedding": ("embedding",),
}
"""Site -> modules that read its activations; without a gate, ``ffn.gate`` names up's input.

What is kept of an embedding weighs its rows by how often they are read (``stages.calibration``).
"""

VALUES_AT_ONCE = 2 * 10**9
"""Values of moments that one pass over the text adds up, in float64: 16 GB."""


def site_of(module: str) -> str:
    """The site whose moment is that of the inputs of ``module``."""
    return next(site for site, readers in SITES.items() if module in readers)


ANGLE = "layer.angle"
"""What the mean angle between a layer's input and output is kept under, over half a turn."""


def gradient_of(module: str) -> str:
    """What the squared gradients of the loss by the outputs of ``module`` are kept under."""
    return f"{module}.gradient"


def count_of(module: str) -> str:
    """What the number of tokens that reached ``module``, or each slice of it, is kept under."""
    return f"{site_of(module)}.tokens"


def moment_values(shape: LayerShape) -> int:
    """Values of the second moments of all sites of a layer."""
    readers = {
        site: shape.modules[module]
        for site, modules in SITES.items()
        for module in modules
        if module in shape.modules
    }
    return sum(module.moment_numel for module in readers.values())


def passes(shapes: Sequence[LayerShape], values: int = VALUES_AT_ONCE) -> list[range]:
    """Consecutive layers whose moments have at most ``values``, one layer at least."""
    found: list[range] = []
    held = 0
    for layer, shape in enumerate(shapes):
        own = moment_values(shape)
        if found and held + own <= values:
            found[-1], held = range(found[-1].start, layer + 1), held + own
        else:
            found.append(range(layer, layer + 1))
            held = own
    return found
