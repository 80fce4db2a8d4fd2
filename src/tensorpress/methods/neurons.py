"""``neurons``: FFNs and experts with fewer neurons, those left making up for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.sites import count_of
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.allocation import Curve
from tensorpress.methods.approach import Approach
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, output_gradients, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of
from tensorpress.methods.super_weights import KeepsSuperWeights

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.linalg.columns import Chosen


class Spec(KeepsSuperWeights):
    """How many neurons are kept, and which; those of super weights of down always are.

    The budget is of values; which neurons they are takes one bit for each that there was.
    """

    approach: ClassVar[Approach] = "pruning"
    groups: ClassVar[tuple[str, ...]] = ("ffn", "experts")
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("neurons", "budget")
    finds_size: ClassVar[tuple[str, ...]] = ("alignment",)
    has_curves: ClassVar[bool] = True

    method: Literal["neurons"]
    neurons: int | None = Field(None, ge=1, description="that an FFN, or each expert, keeps")
    budget: Budget | None = None
    select: Literal["greedy", "leverage"] = Field(
        "greedy",
        description="greedy: each time the neuron that lowers the predicted loss most; leverage: "
        "as FLAT-LLM, by how little the others tell of a neuron",
    )
    alignment: int = Field(
        8, ge=1, description="a budget of so many neurons or more is cut to multiples of it"
    )

    @property
    def needs_moments(self) -> bool:
        return True

    @property
    def needs_gradients(self) -> bool:
        by_loss = self.budget is not None and self.budget.allocate == "loss"
        return by_loss or self.select == "greedy"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        shapes = layer.group(group)
        count = self.kept(layer, group)
        parts = []
        for module, shape in shapes.items():
            narrowed = "in_features" if _is_down(module) else "out_features"
            parts.append({"format": "dense", "settings": {**sizes_of(shape), narrowed: count}})
        sides = ["in" if _is_down(module) else "out" for module in shapes]
        width = shapes[f"{group}.down"].in_features
        return [Layout(tuple(shapes), "subset", {"parts": parts, "sides": sides, "width": width})]

    def kept(self, layer: LayerShape, group: str) -> int:
        """Neurons that an FFN, or each expert, keeps."""
        shapes, down = layer.group(group), f"{group}.down"
        width = shapes[down].in_features
        budget = self.budget
        if budget is None:
            assert self.neurons is not None
            require_rank("neurons", self.neurons, width, group)
            count = self.neurons
        elif given := [each.ranks for each in budget.ranks if each.module == down]:
            count = width if given[0][0] is None else max(1, given[0][0])
        else:
            slices = shapes[down].slices
            if slices > 1 and budget.allocate == "loss" and budget.granularity == "matrix":
                raise TensorpressError(
                    f"budget.granularity: 'matrix' is not allowed for {group}, which keep as many "
                    "neurons each; allowed: module, layer"
                )
            each = sum(shape.numel for shape in shapes.values()) // width
            count = budget.largest(width, lambda n: n * each, width * each, group)
            count -= count % self.alignment if count > self.alignment else 0
        known = self.given(layer, down)
        if len(known) > count:
            raise TensorpressError(
                f"super_weights: {len(known)} neurons of {down} are more than the {count} that are "
                f"kept; allowed: at most {count}"
            )
        return count

    def given(self, layer: LayerShape, down: str) -> tuple[int, ...]:
        """Neurons that are kept for the super weights of a layer."""
        return tuple(dict.fromkeys(column for _, column in self.exact(layer, down)))

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        down = layer.modules[layout.modules[-1]]
        width, out = down.in_features, down.out_features
        kept = layout.settings["parts"][0]["settings"]["out_features"]
        if self.needs_advice:  # what each layer gets is not known yet
            kept = width
        stored = down.slices * len(layout.modules) * kept * out
        # the moments in float32; of one slice moment, what is left of it, weight and its images
        held = down.moment_numel // 2 + 4 * width**2 + 4 * out * width
        macs = down.slices * (kept * width * (width + out) + kept**2 * (kept + width))
        return Cost(stored, held, macs)


EXAMPLE = Spec(method="neurons", neurons=9)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Rows of gate and up, and columns of down refitted to stand for those left out.

    FLAT-LLM (Tian et al. 2025) and MoDeGPT (Lin et al., ICLR 2025). The error of the group's
    outputs is that of down, for the activations of the neurons that are left do not change.
    """
    import torch

    from tensorpress.formats.subset import Subset

    factors = []
    for layout, stacks in with_layouts(weights, layer, spec):
        inner = Inner.of(stacks, layout.modules, spec, moments)
        given = spec.given(layer, layout.modules[-1])
        with stacks[0].device:
            store = layout.build()
        assert isinstance(store, Subset)
        marks = torch.zeros(store.each, store.width, dtype=torch.bool, device=stacks[0].device)
        errors = totals = 0.0
        for index in range(store.each):
            count = layout.settings["parts"][0]["settings"]["out_features"]
            kept = inner.choice(index, count, spec, given).sort().values
            marks[index, kept] = True
            down, error, total = inner.refitted(index, kept)
            values = [*(stack[index][kept] for stack in stacks[:-1]), down]
            for part, value in zip(store.parts, values, strict=True):
                part.get_parameter("weight")[index].copy_(value)
            errors, totals = errors + error, totals + total
        store.kept = store.pack(marks)
        product = (errors / totals) ** 0.5 if totals else 0.0
        factors.append(Factors(layout.modules, store, product_error=product))
    return factors


def curves(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor],
    tokens: int,
) -> Iterator[Curve]:
    """Predicted loss of every number of neurons of an FFN, or of each expert, under down's name.

    From the greedy order, whatever ``select`` is; gains are cut to a non-increasing sequence.
    ``tokens``: that calibration saw, of which some reach an expert.
    """
    from tensorpress.linalg.columns import output_error

    modules, stacks = tuple(weights), [stacked(weight) for weight in weights.values()]
    inner, down = Inner.of(stacks, modules, spec, moments), layer.modules[modules[-1]]
    assert inner.tokens is not None
    assert inner.moment is not None
    for index in range(down.slices):
        left = [0.0] * (down.in_features + 1)
        if inner.is_known(index):
            reached = float(inner.tokens[index]) / tokens
            gains = inner.gains(index, down.in_features).gains.cummin(0).values
            total = output_error(inner.weighed(index), inner.moment[index]) / 2
            found = (total - gains.cumsum(0)).clamp_min(0.0).tolist()
            found += [0.0] * (down.in_features - len(found))
            left = [reached * damage for damage in (total, *found)]
        yield Curve(
            layer=layer.number,
            module=modules[-1],
            index=index,
            rank_values=len(modules) * down.out_features,
            whole_values=len(modules) * down.out_features * down.in_features,
            damages=tuple(float(f"{damage:.7g}") for damage in left),
        )


@dataclass(frozen=True)
class Inner:
    """What is known of the neurons of a group: FFNs or experts ``e`` of ``E``.

    ``stacks``: of each module, down last. ``moment (E, width, width)`` of their activations,
    ``gradient (E, out)`` of the group's outputs, ``tokens (E,)``; without calibration ``None``.
    """

    stacks: list[Tensor]
    moment: Tensor | None
    gradient: Tensor | None
    tokens: Tensor | None

    @classmethod
    def of(
        cls,
        stacks: list[Tensor],
        modules: tuple[str, ...],
        spec: Spec,
        moments: Mapping[str, Tensor] | None,
    ) -> Inner:
        """Of the weights of ``modules``."""
        if moments is None:
            return cls(stacks, None, None, None)
        down = modules[-1]
        gradient = output_gradients(moments, down, spec)
        return cls(stacks, stacked(moments[down]), gradient, moments[count_of(down)].reshape(-1))

    def is_known(self, index: int) -> bool:
        """Whether any token reached the neurons."""
        return self.moment is not None and bool(self.moment[index].diagonal().any())

    def weighed(self, index: int) -> Tensor:
        """Down with each output weighed by the root of its gradient, as the loss does."""
        down = self.stacks[-1][index].double()
        if self.gradient is None:
            return down
        return self.gradient[index].double().sqrt()[:, None] * down

    def gains(self, index: int, count: int, first: tuple[int, ...] = ()) -> Chosen:
        """Neurons in greedy order; gains in nats for each token that reaches them."""
        from tensorpress.linalg.columns import Chosen, greedy

        assert self.moment is not None
        moment = self.moment[index]
        given = moment.new_tensor(first).long()
        chosen = greedy(self.weighed(index), moment, count, given)
        return Chosen(chosen.order, chosen.gains / 2)

    def choice(self, index: int, count: int, spec: Spec, given: tuple[int, ...]) -> Tensor:
        """The neurons that are kept; those that no token tells of, by their weights' norms."""
        import torch

        from tensorpress.linalg.columns import leverage

        norms = [stack[index].double().norm(dim=1) for stack in self.stacks[:-1]]
        worth = torch.stack([*norms, self.stacks[-1][index].double().norm(dim=0)]).prod(0)
        order = [worth.new_tensor(given).long()]
        if self.moment is not None and self.is_known(index):
            if spec.select == "greedy":
                order.append(self.gains(index, count, given).order)
            else:
                assert self.tokens is not None
                order.append(leverage(self.tokens[index] * self.moment[index].double(), count))
        order.append(worth.argsort(descending=True, stable=True))
        # each once, in this order
        listed = torch.cat(order).tolist()
        return worth.new_tensor(list(dict.fromkeys(listed))[:count]).long()

    def refitted(self, index: int, kept: Tensor) -> tuple[Tensor, float, float]:
        """Down for the kept neurons; the squared error of the outputs, and their size."""
        from tensorpress.linalg.columns import output_error, refit

        down = self.stacks[-1][index]
        if self.moment is None or not self.is_known(index):
            total = float(down.double().square().sum()) if self.moment is None else 0.0
            held = float(down[:, kept].double().square().sum())
            return down[:, kept], total - held if total else 0.0, total
        moment, columns = self.moment[index], refit(down, self.moment[index], kept)
        change = -down.double()
        change[:, kept] += columns
        reached = 1.0 if self.tokens is None else float(self.tokens[index])
        error, total = output_error(change, moment), output_error(down, moment)
        return columns, reached * error, reached * total


def _is_down(module: str) -> bool:
    return module.endswith(".down")
