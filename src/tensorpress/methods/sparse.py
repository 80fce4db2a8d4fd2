"""``sparse``: entries of the weights that go, by magnitude, by Wanda or by SparseGPT.

Wanda: Sun et al. (ICLR 2024). SparseGPT: Frantar and Alistarh (ICML 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.formats.coordinates import coordinate_bits
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.budget import Budget
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of
from tensorpress.methods.super_weights import Coordinate, KeepsSuperWeights

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format

VALUE_BITS = 16
"""Of a stored value, beside which masks and coordinates are weighed."""
Prune = Callable[["Tensor", "Tensor | None"], "tuple[Tensor, Tensor]"]
"""Matrix ``(out, in)``, moment ``(in, in)`` -> the pruned matrix, the mask of what is kept."""
Description = dict[str, Any]
"""``{format, settings}``, as formats are spelt."""


class PruningSpec(KeepsSuperWeights):
    """Which entries go and how many: a share, what a budget asks for, or all but N of every M."""

    criterion: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    pattern: str = Field("unstructured", description="or N:M, which keeps N of M adjacent inputs")
    share: float | None = Field(None, gt=0, lt=1, description="of the weights that go")
    budget: Budget | None = None
    block: int = Field(128, ge=1, description="columns that SparseGPT chooses among at a time")
    damping: float = Field(0.01, ge=1e-6, description="of the moments' mean diagonal, added to it")
    threshold: Literal["ours", "published"] = Field(
        "ours",
        description="published: at least one more goes than asked for, as in the papers' code",
    )

    @field_validator("pattern")
    @classmethod
    def _known(cls, pattern: str) -> str:
        few, colon, many = pattern.partition(":")
        whole = colon and few.isdecimal() and many.isdecimal()
        if pattern != "unstructured" and not (whole and 0 < int(few) < int(many)):
            raise ValueError("allowed: unstructured, or N:M with N from 1 to M - 1, such as 2:4")
        return pattern

    @model_validator(mode="after")
    def _sized(self) -> Self:
        given = [name for name in ("share", "budget") if getattr(self, name) is not None]
        if self.group is None and len(given) != 1:
            raise ValueError("give exactly one of share and budget, or a pattern N:M")
        if self.group is not None and given:
            raise ValueError(f"{given[0]} is not allowed where pattern {self.pattern} says it")
        unused = {"block", "damping"} & self.model_fields_set
        if unused and self.criterion != "sparsegpt":
            raise ValueError(
                f"{min(unused)} belongs to criterion: sparsegpt, not to {self.criterion!r}; "
                "allowed: leave it out"
            )
        by_blocks = self.criterion == "sparsegpt"
        if by_blocks and self.group is not None and self.block % self.group[1]:
            raise ValueError(
                f"block: {self.block} cuts groups of {self.pattern}; "
                f"allowed: multiples of {self.group[1]}"
            )
        return self

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M of the pattern."""
        if self.pattern == "unstructured":
            return None
        few, _, many = self.pattern.partition(":")
        return int(few), int(many)

    @property
    def needs_moments(self) -> bool:
        return self.criterion != "magnitude"

    def check_group(self, group: str) -> None:
        super().check_group(group)
        if group == "embedding" and self.needs_moments:
            raise TensorpressError(
                f"criterion: {self.criterion!r} weighs inputs, of which an embedding has none; "
                "allowed: magnitude"
            )

    def gone(self, shape: ModuleShape, module: str, taken: int = 0) -> int:
        """Entries of each matrix that go; ``taken``: values of the budget that others need.

        ``TensorpressError`` if the pattern does not divide the inputs or nothing would be left.
        """
        entries, rows = shape.out_features * shape.in_features, shape.out_features
        if self.group is not None:
            few, many = self.group
            if shape.in_features % many:
                raise TensorpressError(
                    f"pattern: {self.pattern} does not divide the {shape.in_features} inputs of "
                    f"{module}; allowed: unstructured, or N:M with M a divisor of them"
                )
            return entries * (many - few) // many
        in_rows = self.criterion == "wanda"
        if self.share is not None:
            field, asked = "share", self.share
            gone = rows * int(asked * shape.in_features) if in_rows else round(asked * entries)
        else:
            assert self.budget is not None
            field, asked = "budget.saved", self.budget.saved
            left = (self.budget.allowed(shape.numel) - taken) * VALUE_BITS // shape.slices
            coordinate = sum(coordinate_bits(shape.out_features, shape.in_features))
            kept = max((left - entries) // VALUE_BITS, left // (VALUE_BITS + coordinate))
            kept = max(0, min(kept, entries - 1))
            gone = entries - (kept // rows * rows if in_rows else kept)
        if gone >= entries:
            raise TensorpressError(f"{field}: {asked} leaves nothing of {module}; allowed: less")
        return gone

    def sparse_part(self, shape: ModuleShape, module: str, taken: int = 0) -> Description:
        """The format of what is kept of a module's matrices; ``taken`` as in ``gone``."""
        kept = shape.out_features * shape.in_features - self.gone(shape, module, taken)
        if self.group == (2, 4):
            return {"format": "two_four", "settings": sizes_of(shape)}
        settings = {**sizes_of(shape), "kept": [kept] * shape.slices}
        return {"format": "sparse", "settings": settings}

    def places(self, layer: LayerShape, module: str) -> tuple[Coordinate, ...]:
        """Super weights of a module; ``TensorpressError`` if a group has no room for its own."""
        places = self.exact(layer, module)
        if self.group is not None:
            few, many = self.group
            crowd = Counter((row, column // many) for row, column in places)
            if any(count > few for count in crowd.values()):
                raise TensorpressError(
                    f"super_weights: {max(crowd.values())} of {module} lie in one group of "
                    f"{self.pattern}; allowed: {few}"
                )
        return places

    @unkeyed
    def pruning_cost(self, shape: ModuleShape, kept: int) -> Cost:
        """What pruning the matrices of a module takes, one by one; ``kept``: values of all."""
        inner, each = shape.in_features, shape.out_features * shape.in_features
        # pruned matrices and masks of all slices; of one: scores, their order, two copies
        held = shape.numel * 5 // 8 + 4 * each
        macs = shape.slices * inner * each
        if self.criterion == "sparsegpt":
            held += inner**2
            macs += 2 * shape.slices * inner**3
        return Cost(kept, held, macs)


class Spec(PruningSpec):
    """Nothing beside what goes."""

    approach: ClassVar[Approach] = "pruning"

    method: Literal["sparse"]

    @property
    def label(self) -> str:
        return f"{self.method}-{self.criterion}"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            self.places(layer, module)
            found.append(Layout((module,), **self.sparse_part(shape, module)))
        return found

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape = layer.modules[layout.modules[0]]
        return self.pruning_cost(shape, kept_values(shape, layout.settings))


EXAMPLE = Spec(method="sparse", share=0.4)


def kept_values(shape: ModuleShape, settings: Mapping[str, Any]) -> int:
    """Values that the sparse format of these settings holds."""
    return sum(settings["kept"]) if "kept" in settings else shape.numel // 2


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """What is kept of every matrix; experts without tokens are pruned by magnitude."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        moment = None if moments is None else stacked(moments[module])
        prune = pruner(spec, layer, module)
        factors.append(Factors(layout.modules, pruned(layout.format, stack, moment, prune)))
    return factors


def pruner(spec: PruningSpec, layer: LayerShape, module: str, taken: int = 0) -> Prune:
    """How the matrices of a module are pruned.

    Without a moment all inputs weigh nothing, as those of an expert without tokens. ``taken`` as in
    ``PruningSpec.gone``.
    """
    from tensorpress.linalg.pruning import Pattern, by_magnitude, by_sparsegpt, by_wanda

    places = spec.places(layer, module)
    gone = spec.gone(layer.modules[module], module, taken)
    pattern = Pattern(gone, spec.group, spec.threshold == "published")

    def prune(matrix: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor]:
        kept = None
        if places:
            kept = matrix.new_zeros(matrix.shape).bool()
            kept[tuple(zip(*places, strict=True))] = True
        if moment is None or spec.criterion == "magnitude":
            mask = by_magnitude(matrix, pattern, kept)
        elif spec.criterion == "wanda":
            mask = by_wanda(matrix, moment, pattern, kept)
        else:
            matrix, mask = by_sparsegpt(matrix, moment, pattern, spec.block, spec.damping, kept)
        if kept is not None and not bool(mask[kept].all()):
            raise TensorpressError(
                f"super_weights: so many of {module} are compared with each other that some would "
                "go; allowed: fewer, or a smaller share"
            )
        return matrix * mask, mask

    return prune


def pruned(format: str, stack: Tensor, moment: Tensor | None, prune: Prune) -> Format:
    """What is kept of ``stack (S, out, in)``, in one of the formats of kept entries."""
    import torch

    from tensorpress.formats.sparse import Sparse
    from tensorpress.formats.two_four import TwoFour

    kept, masks = torch.empty_like(stack), torch.empty_like(stack, dtype=torch.bool)
    for index, matrix in enumerate(stack):
        kept[index], masks[index] = prune(matrix, None if moment is None else moment[index])
    return TwoFour.of(kept, masks) if format == TwoFour.name else Sparse.of(kept, masks)
