"""``drop``: the module's output becomes zero, the control that any method must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, slices_of

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """No settings."""

    method: Literal["drop"]


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Store nothing for every weight (Gromov et al. 2024 drop whole layers so)."""
    from tensorpress.formats.zero import Zero

    return [Factors((module,), Zero(**sizes), 1.0, 1.0) for module, _, sizes in slices_of(weights)]
