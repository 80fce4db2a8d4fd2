"""What every method file shares: its settings (``Spec``) and what ``decompose`` gives back.

Planning imports method files to validate settings, so nothing here or at the top of a method file
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tensorpress.errors import TensorpressError
from tensorpress.layers import GROUPS, LayerShape, ModuleShape, group_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format

Whitening = Literal["none", "input"]


class Budget(BaseModel):
    """How small the result must be, in place of ranks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    saved: float = Field(gt=0, lt=1, description="share of the modules' values to save")

    def allowed(self, values: int) -> int:
        """Values that may be stored in place of ``values``."""
        return math.floor((1.0 - self.saved) * values)

    def largest(self, limit: int, values: Callable[[int], int], dense: int, where: str) -> int:
        """The largest rank up to ``limit`` whose ``values(rank)`` fit; ``values`` must grow."""
        allowed, low, high = self.allowed(dense), 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if values(middle) <= allowed else (low, middle - 1)
        if not low:
            raise TensorpressError(
                f"budget.saved: {self.saved} leaves no room for rank 1 at {where}; "
                f"allowed: up to {1 - values(1) / dense:.4f}"
            )
        return low

    def proportional(
        self,
        limits: Mapping[str, int],
        values: Callable[[Mapping[str, int]], int],
        dense: int,
        where: str,
    ) -> dict[str, int]:
        """Ranks that fit: all the same share of their limits, then filled up one by one.

        The widest mode is filled up first. ``values(ranks)`` must grow with every rank.
        """
        widest = max(limits.values())

        def shared(step: int) -> dict[str, int]:
            return {name: max(1, limit * step // widest) for name, limit in limits.items()}

        step = self.largest(widest, lambda s: values(shared(s)), dense, where)
        ranks, allowed = shared(step), self.allowed(dense)
        for name in sorted(limits, key=lambda n: -limits[n]):
            while ranks[name] < limits[name]:
                more = {**ranks, name: ranks[name] + 1}
                if values(more) > allowed:
                    break
                ranks = more
        return ranks


@dataclass(frozen=True)
class Layout:
    """What a method will store for ``modules``, known from shapes alone."""

    modules: tuple[str, ...]
    format: str
    settings: dict[str, Any]

    def build(self) -> Format:
        """The empty factors; on the meta device they take no memory."""
        from tensorpress.formats.table import FORMATS

        return FORMATS[self.format](**self.settings)


class MethodSpec(BaseModel):
    """Settings of one method as written in ``params.yaml``; subclasses add their own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: ClassVar[tuple[str, ...]] = tuple(GROUPS)
    """Module groups that the method can decompose."""

    whole_groups: ClassVar[bool] = False
    """True where a module shares factors with others, so that a group is compressed or not."""

    sized_by: ClassVar[tuple[str, ...]] = ()
    """Fields that say how small the result is, of which exactly one is given."""

    method: str

    @model_validator(mode="after")
    def _sized_once(self) -> Self:
        given = sum(getattr(self, field) is not None for field in self.sized_by)
        if self.sized_by and given != 1:
            raise ValueError(f"give exactly one of {' and '.join(self.sized_by)}")
        return self

    @property
    def needs_moments(self) -> bool:
        """Whether ``decompose`` reads the second moments of the modules' inputs."""
        return False

    def check(self, layer: LayerShape, group: str) -> None:
        """Raise ``TensorpressError`` where these settings do not fit the shapes of ``group``."""
        self.check_group(group)
        self.layouts(layer, group)

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        """What ``decompose`` stores for each factor set of ``group``, ranks resolved.

        Raises ``TensorpressError`` where these settings do not fit the shapes. Where the values
        of the weights decide, it is the largest that ``decompose`` may store.
        """
        raise TypeError(f"{type(self).__name__} does not define layouts")

    def check_group(self, group: str) -> None:
        """Raise ``TensorpressError`` if the method is not made for ``group``."""
        if group not in self.groups:
            raise TensorpressError(
                f"method: {self.method!r} does not decompose {group}; "
                f"allowed: {', '.join(self.groups)}"
            )


class WhitenedSpec(MethodSpec):
    """Settings of a method that can weigh errors by the moments of the modules' inputs."""

    whiten: Whitening = Field("none", description="input: minimise the error of the outputs")

    @property
    def needs_moments(self) -> bool:
        return self.whiten == "input"


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
    shape_gain: float | None = None
    """Error over that of the study's mode shape at the same size, where one was searched."""

    @property
    def stored_values(self) -> int:
        """Values of all factors."""
        return sum(value.numel() for value in self.store.state_dict().values())


def sizes_of(shape: ModuleShape) -> dict[str, int]:
    """The sizes that every format takes."""
    return {
        "slices": shape.slices,
        "out_features": shape.out_features,
        "in_features": shape.in_features,
    }


def require_rank(field: str, rank: int, limit: int, where: str) -> None:
    """Raise ``TensorpressError`` if ``rank`` is above ``limit`` (``where`` names the module)."""
    if rank > limit:
        raise TensorpressError(
            f"{field}: {rank} is above the limit at {where}; allowed: 1 to {limit}"
        )


def stacked(matrices: Tensor) -> Tensor:
    """A weight or a moment as a stack ``(S, ., .)``: S = 1 unless experts."""
    return matrices if matrices.ndim == 3 else matrices[None]


def group_of_weights(weights: Mapping[str, Tensor]) -> str:
    """The group that the weights of one job belong to."""
    return group_of(next(iter(weights)))


def with_layouts(
    weights: Mapping[str, Tensor], layer: LayerShape, spec: MethodSpec
) -> Iterator[tuple[Layout, list[Tensor]]]:
    """Each layout of the job with the weights of its modules, as stacks ``(S, out, in)``."""
    for layout in spec.layouts(layer, group_of_weights(weights)):
        yield layout, [stacked(weights[module]) for module in layout.modules]
