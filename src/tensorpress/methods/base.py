"""What every method file shares: its settings (``Spec``) and what ``decompose`` gives back.

Planning imports method files, so nothing here or at the top of one imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tensorpress.architectures.layers import GROUPS, LayerShape, ModuleShape, group_of
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import stored_tensors
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import APPROACHES, Approach
from tensorpress.methods.cost import Cost, most
from tensorpress.methods.layout import Layout

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
        """The largest rank up to ``limit`` whose ``values(rank)`` fit; ``values`` must grow.

        ``TensorpressError`` if not even rank 1 fits; ``where`` names the module in it.
        """
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


class MethodSpec(BaseModel):
    """Settings of one method as written in ``params.yaml``; subclasses add their own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approach: ClassVar[Approach]
    """What the method is; each says it."""

    groups: ClassVar[tuple[str, ...]] = tuple(GROUPS)
    """Module groups that the method can decompose."""

    whole_groups: ClassVar[bool] = False
    """True where a module shares factors with others, so that a group is compressed or not."""

    sized_by: ClassVar[tuple[str, ...]] = ()
    """Fields that say how small the result is, of which exactly one is given."""

    finds_size: ClassVar[tuple[str, ...]] = ()
    """Other fields that only help to find ranks."""

    method: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a method (it has a name of its own) that does not say what it is."""
        is_method = get_origin(cls.model_fields["method"].annotation) is Literal
        approach = getattr(cls, "approach", None)
        if is_method and approach not in APPROACHES:
            raise TypeError(
                f"{cls.__module__}: Spec.approach: {approach!r} is not allowed; "
                f"allowed: {', '.join(APPROACHES)}"
            )

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

    @property
    def label(self) -> str:
        """The method's name in results: ``svd-whitened`` where it weighs errors."""
        return self.method + "-whitened" * (getattr(self, "whiten", "none") != "none")

    def approaches(self, rounded: bool) -> frozenset[Approach]:
        """What the modules that the method stores are, with its factors rounded or not."""
        return frozenset({self.approach})

    def approach_of(self, module: str) -> Approach:
        """What one module is stored by, where settings are complete."""
        return self.approach

    def control(self, rounding_bits: int | None) -> str | None:
        """The yardstick of reports that a run of this method alone is, if it is one.

        ``rounding_bits``: of its factors, where a recipe rounds them.
        """
        return None

    @property
    def head_layout(self) -> str | None:
        """How attention is split into heads, where the method lets its user choose."""
        return None

    @property
    def needs_advice(self) -> bool:
        """Whether the settings are completed by pre-flight advice on the whole model."""
        return False

    def completed(self, advice: Sequence[Path], layer: int) -> MethodSpec:
        """The settings with what the advice says of a layer; a method that takes none has none."""
        return self

    @property
    def depends_on_layer_index(self) -> bool:
        """Whether what is stored of a layer depends on which layer it is, beside its shape."""
        return False

    @property
    def nested(self) -> bool:
        """Whether factors of smaller ranks are the leading blocks of those of larger ones.

        The ranks must then follow from shapes alone.
        """
        return False

    def contains_factors_of(self, other: MethodSpec, layer: LayerShape, group: str) -> bool:
        """Whether leading blocks of the factors of these settings are those of ``other``."""
        if not (self.nested and other.nested):
            return False
        size = {*self.sized_by, *self.finds_size}
        if self.model_dump(exclude=size) != other.model_dump(exclude=size):
            return False
        pairs = zip(self.layouts(layer, group), other.layouts(layer, group), strict=True)
        return all(larger.contains(smaller) for larger, smaller in pairs)

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

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        """What decomposing a layout takes at most; a method that takes far less says so."""
        return most([layer.modules[module] for module in layout.modules])

    def check_group(self, group: str) -> None:
        """Raise ``TensorpressError`` if the method is not made for ``group``."""
        if group not in self.groups:
            raise TensorpressError(
                f"method: {self.method!r} does not decompose {group}; "
                f"allowed: {', '.join(self.groups)}"
            )


class WhitenedSpec(MethodSpec):
    """Settings of a method that can weigh errors by the second moments of the modules' inputs."""

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
    """Where a mode shape was searched: its error over that of the study's at the same size, or its
    values over those of the study's at the same error."""

    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    """Squared singular values by the name of the rank that truncates them, of nested methods."""

    @property
    def stored_values(self) -> int:
        """Values of all factors, packed ones included."""
        return sum(t.numel for t in stored_tensors(self.store, None, replaced=True).values())


def bounded(
    modules: tuple[str, ...], store: Format, spectra: Mapping[str, Tensor], spec: MethodSpec
) -> Factors:
    """Factors with the bounds of the plain spectra; whitened ones only have the lower one."""
    from tensorpress.linalg.bounds import of_spectra

    lower, upper = of_spectra(spectra, store.settings)
    upper_bound = None if spec.needs_moments else upper
    return Factors(modules, store, lower, upper_bound, spectra=spectra)


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


def dense_store(weight: Tensor) -> Format:
    """A weight, or a stack of experts' weights, as the format that holds it as it is."""
    from tensorpress.formats.dense import DenseSlices

    stack = stacked(weight)
    slices, out_features, in_features = stack.shape
    store = DenseSlices(slices=slices, out_features=out_features, in_features=in_features)
    return store.fill(weight=stack)


def group_of_weights(weights: Mapping[str, Tensor]) -> str:
    """The group that the weights of one job belong to."""
    return group_of(next(iter(weights)))


def with_layouts(
    weights: Mapping[str, Tensor], layer: LayerShape, spec: MethodSpec
) -> Iterator[tuple[Layout, list[Tensor]]]:
    """Each layout of the job with the weights of its modules, as stacks ``(S, out, in)``."""
    for layout in spec.layouts(layer, group_of_weights(weights)):
        yield layout, [stacked(weights[module]) for module in layout.modules]
