"""``sparse_plus_low_rank``: what pruning takes away comes back, as far as a low rank holds it.

After HASSLE-free (Makni et al. 2025), whose fifty steps of Adam a sweep are one weighted SVD here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods import svd
from tensorpress.methods.approach import Approach
from tensorpress.methods.budget import require_rank
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of
from tensorpress.methods.sparse import PruningSpec, kept_values, pruned, pruner
from tensorpress.methods.tt import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format


class Spec(PruningSpec):
    """What goes, and the rank of what comes back; a budget is of both together."""

    approach: ClassVar[Approach] = "hybrid"

    method: Literal["sparse_plus_low_rank"]
    rank: int = Field(8, ge=1, description="of the matrix that is added to the kept entries")
    sweeps: int = Field(10, ge=1, description="how often each half is fitted to what is left")

    @property
    def holds_tensor_format(self) -> bool:
        return False

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            require_rank("rank", self.rank, min(shape.out_features, shape.in_features), module)
            self.places(layer, module)
            low_rank = {"format": "low_rank", "settings": {**sizes_of(shape), "rank": self.rank}}
            parts = {"base": self.sparse_part(shape, module, self.taken(shape))}
            found.append(Layout((module,), "sum", {**parts, "correction": low_rank}))
        return found

    def taken(self, shape: ModuleShape) -> int:
        """Values of the low-rank part."""
        return shape.slices * self.rank * (shape.out_features + shape.in_features)

    @property
    def correction(self) -> svd.Spec:
        """How the low-rank part is fitted: as errors are weighed."""
        whiten: Literal["none", "input"] = "input" if self.needs_moments else "none"
        return svd.Spec(method="svd", rank=self.rank, whiten=whiten)

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape = layer.modules[layout.modules[0]]
        kept = kept_values(shape, layout.settings["base"]["settings"])
        sparse = self.pruning_cost(shape, kept)
        within = replace(layer, modules={layout.modules[0]: shape})
        low_rank = Layout(layout.modules, **layout.settings["correction"])
        fitted = self.correction.cost(low_rank, within)
        # the rest, both parts rebuilt, and the best pair so far
        held = max(sparse.held, fitted.held) + 2 * shape.numel + sparse.stored + fitted.stored
        macs = (self.sweeps + 1) * (sparse.macs + fitted.macs)
        return Cost(sparse.stored + fitted.stored, held, macs)


EXAMPLE = Spec(method="sparse_plus_low_rank", share=0.4, rank=3, sweeps=2)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Kept entries plus a low rank, which is at first that of the whole matrix."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        moment = None if moments is None else stacked(moments[layout.modules[0]])
        factors.append(Factors(layout.modules, _fitted(layout, layer, spec, stack, moment)))
    return factors


def _fitted(
    layout: Layout, layer: LayerShape, spec: Spec, stack: Tensor, moment: Tensor | None
) -> Format:
    from tensorpress.methods.two_parts import best_sum

    (module,) = layout.modules
    shape, format = layer.modules[module], layout.settings["base"]["format"]
    within = replace(layer, modules={module: shape})
    prune = pruner(spec, layer, module, spec.taken(shape))

    def low_rank(rest: Tensor) -> Format:
        given = None if moment is None else {module: moment}
        (fitted,) = svd.decompose({module: rest}, within, spec.correction, given)
        return fitted.store

    def kept(rest: Tensor) -> Format:
        return pruned(format, rest, moment, prune)

    metric = None if moment is None else Metric(moment, None)
    return best_sum(stack, metric, kept, low_rank, [low_rank], spec.sweeps)
