"""What every method file shares: its settings (``Spec``) and what ``decompose`` gives back.

Planning imports method files to validate settings, so nothing here or at the top of a method file
imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tensorpress.errors import TensorpressError
from tensorpress.layers import GROUPS, LayerShape

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format

Whitening = Literal["none", "input"]


class MethodSpec(BaseModel):
    """Settings of one method as written in ``params.yaml``; subclasses add their own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: ClassVar[tuple[str, ...]] = tuple(GROUPS)
    """Module groups that the method can decompose."""

    whole_groups: ClassVar[bool] = False
    """True where a module shares factors with others, so that a group is compressed or not."""

    method: str

    @property
    def needs_moments(self) -> bool:
        """Whether ``decompose`` reads the second moments of the modules' inputs."""
        return False

    def check(self, layer: LayerShape, group: str) -> None:
        """Raise ``TensorpressError`` where these settings do not fit the shapes of ``group``."""
        self.check_group(group)

    def check_group(self, group: str) -> None:
        """Raise ``TensorpressError`` if the method is not made for ``group``."""
        if group not in self.groups:
            raise TensorpressError(
                f"method: {self.method!r} does not decompose {group}; "
                f"allowed: {', '.join(self.groups)}"
            )


@dataclass(frozen=True)
class Factors:
    """One factor set and the modules whose weights it represents.

    ``modules[i]`` is slice ``i`` of ``store``; a single expert module owns all slices.
    Bounds are of the joint relative Frobenius error, ``None`` where the method has none.
    """

    modules: tuple[str, ...]
    store: Format
    lower_bound: float | None = None
    upper_bound: float | None = None


def require_rank(field: str, rank: int, limit: int, where: str) -> None:
    """Raise ``TensorpressError`` if ``rank`` is above ``limit`` (``where`` names the module)."""
    if rank > limit:
        raise TensorpressError(
            f"{field}: {rank} is above the limit at {where}; allowed: 1 to {limit}"
        )


def slices_of(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, dict[str, int]]]:
    """Each module's weight as a stack ``(S, out, in)`` (S = 1 unless experts), with its sizes."""
    for module, weight in weights.items():
        stack = weight if weight.ndim == 3 else weight[None]
        slices, out_features, in_features = stack.shape
        sizes = {"slices": slices, "out_features": out_features, "in_features": in_features}
        yield module, stack, sizes
