"""What the settings of every method, its ``Spec``, have in common.

Planning imports method files, so nothing here or at the top of one imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_origin

from pydantic import Field, model_validator

from tensorpress.architectures.layers import GROUPS, LayerShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.allocation import Allocation
from tensorpress.methods.approach import APPROACHES, Approach
from tensorpress.methods.budget import Budget
from tensorpress.methods.cost import Cost, most
from tensorpress.methods.layout import Layout

if TYPE_CHECKING:
    pass

Whitening = Literal["none", "input", "both"]


class MethodSpec(Section):
    """Settings of one method as written in ``params.yaml``; subclasses add their own fields."""

    approach: ClassVar[Approach]
    """What the method is; each says it."""

    groups: ClassVar[tuple[str, ...]] = tuple(GROUPS)
    """Module groups that the method can decompose."""

    whole_groups: ClassVar[bool] = False
    """True where a module shares factors with others, so that a group is compressed or not."""

    by_heads: ClassVar[bool] = False
    """True where attention is split into its heads."""

    sized_by: ClassVar[tuple[str, ...]] = ()
    """Fields that say how small the result is, of which exactly one is given."""

    has_curves: ClassVar[bool] = False
    """True where one factorisation tells the damage of every rank of a matrix; a method of whole
    groups tells it by ``curves`` of its file."""

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
        budget = self.shared_budget
        if budget is not None and budget.allocate == "loss" and not self.has_curves:
            raise ValueError(
                f"budget.allocate: 'loss' is not allowed for {self.method}, which has no curve of "
                "ranks; allowed: uniform, importance, or a method advised with "
                f"methods: [{self.method}]"
            )
        return self

    @property
    def needs_moments(self) -> bool:
        """Whether ``decompose`` reads the second moments of the modules' inputs."""
        return False

    @property
    def needs_gradients(self) -> bool:
        """Whether it reads the squared gradients of the loss by the modules' outputs too."""
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

    @property
    def holds_tensor_format(self) -> bool:
        """Whether anything is held in a tensor format; a hybrid says what its parts are."""
        return "tensor format" in self.approaches(False)

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
    def shared_budget(self) -> Budget | None:
        """The budget, where the modules of a step share it and advice says what each gets."""
        budget: Budget | None = getattr(self, "budget", None)
        return budget if budget is not None and budget.allocate != "uniform" else None

    @property
    def needs_advice(self) -> bool:
        """Whether the settings are completed by pre-flight advice on several modules together."""
        return self.shared_budget is not None

    @property
    def tried(self) -> tuple[str, ...]:
        """Methods that are tried on a layer to know what may be chosen."""
        budget = self.shared_budget
        return (self.method,) if budget is not None and budget.allocate == "loss" else ()

    @property
    def asked(self) -> dict[str, Any]:
        """What the advice has to know of a layer, as far as settings decide it: no budget."""
        budget = self.shared_budget
        assert budget is not None
        by_loss = budget.allocate == "loss"
        return self.model_dump(exclude={"budget"}) if by_loss else {"allocate": budget.allocate}

    def completed(self, advice: Sequence[Path], layer: int) -> MethodSpec:
        """The settings with what the advice says of a layer; a method that takes none has none."""
        if self.shared_budget is None:
            return self
        (file,) = advice
        own = Allocation.read(file).of(layer)
        given = self.shared_budget.model_copy(update={"kept": own.kept, "ranks": own.ranks})
        return self.model_copy(update={"budget": given})

    @property
    def keeps_all(self) -> bool:
        """Whether completed settings give a layer all of its values, so that it stays as it is."""
        budget = self.shared_budget
        return budget is not None and not budget.ranks and budget.to_save <= 0.0

    @property
    def depends_on_layer_index(self) -> bool:
        """Whether what is stored of a layer depends on which layer it is, beside its shape."""
        return False

    @property
    def sized_by_weights(self) -> bool:
        """Whether layouts are the largest that factors may come to: how large, weights decide."""
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
        if self.by_heads and not layer.in_heads:
            raise TensorpressError(
                f"method: {self.method!r} splits attention into heads, and matrices of layer "
                f"{layer.number} are not heads of {layer.head_dim}; allowed: methods that do not"
            )
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

    whiten: Whitening = Field(
        "none",
        description="input: minimise the error of the outputs; both: the predicted rise of the "
        "loss, with each output weighed by its gradient",
    )

    @property
    def needs_moments(self) -> bool:
        return self.whiten != "none"

    @property
    def needs_gradients(self) -> bool:
        return self.whiten == "both"
