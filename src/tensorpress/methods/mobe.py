"""``mobe``: experts as bent mixtures of a few bases (MoBE, Chen et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import count_of
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import WhitenedSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost
from tensorpress.methods.factors import Factors, output_gradients, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.linalg.mobe import Weighing

EXPERTS_A_BASIS = 4
"""Where the number of bases is not given."""
BATCH_VALUES = 2**21
"""Values of the experts, or of what weighs their errors, that are in float64 at a time."""
SCATTER = 2.5
"""Memory of such a batch over its values: the C library keeps what is freed between what is not.

The peak of one and the same job (tests/unit/test_memory.py) was between 630 and 800 MB.
"""


class Spec(WhitenedSpec):
    """Bases that the experts of a projection share, on the side of the residual stream.

    Down's, which the paper leaves alone, are those of its transpose.
    """

    # bent, a mixture is in no tensor network, and no unfolding bounds its error
    approach: ClassVar[Approach] = "low rank"
    groups: ClassVar[tuple[str, ...]] = ("experts",)
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    method: Literal["mobe"]
    rank: int | None = Field(
        None, ge=1, description="rows of a basis; as published the experts' inner width"
    )
    budget: Budget | None = None
    bases: int | None = Field(
        None, ge=1, description="of each projection; one for every four experts if left out"
    )
    activation: Literal["tanh", "silu", "identity"] = Field(
        "tanh", description="what bends a mixture of bases"
    )
    steps: int = Field(500, ge=0, description="of Adam on bases and mixing weights")

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [self._layout(module, shape) for module, shape in layer.group(group).items()]

    def _layout(self, module: str, shape: ModuleShape) -> Layout:
        count = self.bases or -(-shape.slices // EXPERTS_A_BASIS)
        require_rank("bases", count, shape.slices, module)
        transposed = module.endswith(".down")
        sides = (shape.out_features, shape.in_features)
        own, shared = sides[::-1] if transposed else sides
        each, mixing = shape.slices * own + count * shared, shape.slices * count
        widest = min(sides)
        if self.rank is not None:
            # at least as large as the experts themselves is no compression
            most = min(widest, (shape.numel - mixing - 1) // each)
            if most < 1:
                raise TensorpressError(
                    f"bases: {count} at {module} take more values than the experts; allowed: fewer"
                )
            require_rank("rank", self.rank, most, module)
            rank = self.rank
        else:
            assert self.budget is not None
            rank = self.budget.largest(widest, lambda r: r * each + mixing, shape.numel, module)
        how = {"rank": rank, "bases": count, "activation": self.activation}
        return Layout((module,), "mobe", {**sizes_of(shape), **how, "transposed": transposed})

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape, sizes = layer.modules[layout.modules[0]], layout.settings
        m, n, rank = shape.out_features, shape.in_features, sizes["rank"]
        own, shared = (n, m) if sizes["transposed"] else (m, n)
        bases = sizes["bases"] * rank * shared
        batch = min(shape.slices, _batch(shape))
        # bases with their gradient, Adam's two means and a copy; of a batch the experts, what is
        # left of them, mixtures with slopes and gradient, left factors and normal equations
        held = 5 * bases + shape.slices * rank * own
        held += int(VECTORS * shared**2) + shape.numel // sizes["bases"]
        one = 5 * m * n + 4 * rank * shared + 3 * rank * own + 2 * rank**2
        each = 3 * rank * m * n + rank**2 * (shared + own + rank) + 2 * sizes["bases"] * bases
        if self.needs_moments:
            one += 2 * n * n
            each += 2 * n * n * max(m, rank)
        stored = bases + shape.slices * (rank * own + sizes["bases"])
        held += int(SCATTER * batch * one)
        return Cost(stored, held, (self.steps + 1) * shape.slices * each)


EXAMPLE = Spec(method="mobe", rank=4, bases=2, steps=20)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Bases, mixing weights and each expert's own factor, of every projection."""
    from functools import partial

    from tensorpress.linalg.mobe import shared_bases
    from tensorpress.running.oom import with_smaller_batches

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module, sizes = layout.modules[0], layout.settings
        fit = partial(
            shared_bases,
            stack.mT if sizes["transposed"] else stack,
            sizes["rank"],
            sizes["bases"],
            spec.activation,
            spec.steps,
            weighing=_weighing(moments, module, spec, sizes["transposed"]),
        )
        batch = min(len(stack), _batch(layer.modules[module]))
        found = with_smaller_batches("mobe", fit, batch, stack.device)
        values = {"left": found.left, "bases": found.bases, "mix": found.mix}
        store = layout.build().fill(**{name: value.float() for name, value in values.items()})
        factors.append(Factors(layout.modules, store))
    return factors


def _weighing(
    moments: Mapping[str, Tensor] | None, module: str, spec: Spec, transposed: bool
) -> Weighing | None:
    """The metric of an expert's inputs, or of the loss, each expert by the tokens it saw.

    One without tokens weighs as one with a single token of inputs of the mean size.
    """
    import torch

    from tensorpress.linalg.mobe import Weighing
    from tensorpress.linalg.whitening import output_roots

    if moments is None or not spec.needs_moments:
        return None
    inputs = stacked(moments[module])
    tokens = moments[count_of(module)].reshape(-1).double().clamp_min(1)
    sizes = inputs.diagonal(dim1=1, dim2=2).mean(1)
    if not bool((sizes > 0).all()):
        mean = sizes.sum() / max(int((sizes > 0).sum()), 1) if bool(sizes.any()) else 1.0
        plain = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device) * mean
        inputs = torch.where((sizes > 0)[:, None, None], inputs, plain)
    gradient = output_gradients(moments, module, spec)
    outputs = None if gradient is None else output_roots(gradient).square()
    shares = tokens / tokens.sum()
    return Weighing(inputs, outputs, shares) if transposed else Weighing(outputs, inputs, shares)


def _batch(shape: ModuleShape) -> int:
    sides = (shape.out_features, shape.in_features)
    return max(1, BATCH_VALUES // max(sides) ** 2)
