"""How a mixture of experts spreads its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.analysis.moe import (
    effective_number,
    group_masses,
    leading_in_group,
    loads,
    spread_over_groups,
    token_information_nats,
    variation,
)
from tensorpress.architectures.architecture import Architecture
from tensorpress.evaluation.activations import stream_routing
from tensorpress.evaluation.mixture import router_of, routing_probabilities

STARVED = 0.1
"""Of an even share of assignments: an expert that gets less does not count as alive."""


@dataclass
class LayerRouting:
    """What one layer's router chose for every token, and how its probability lies in groups."""

    experts: int
    groups: int | None
    chosen: list[Int[Tensor, "tokens k"]] = field(default_factory=list)
    masses: list[Float[Tensor, "tokens groups"]] = field(default_factory=list)
    leading: list[Float[Tensor, "tokens groups"]] = field(default_factory=list)

    def measures(self, ids: Int[Tensor, " tokens"]) -> Iterator[tuple[str, float]]:
        """Metric and value; those on groups where there are some."""
        chosen = torch.cat(self.chosen)
        shares = loads(chosen, self.experts)
        yield "effective_experts", effective_number(shares)
        yield "load_variation", variation(shares)
        yield "busiest_share", float(shares.max())
        yield "starved_experts", float((shares * self.experts < STARVED).sum())
        yield "token_information_nats", token_information_nats(chosen, ids, self.experts)
        if self.groups is not None:
            yield "group_variation", variation(torch.cat(self.masses).mean(0))
            yield "leading_in_group", float(torch.cat(self.leading).mean())
            spread = spread_over_groups(chosen, self.experts, self.groups)
            yield "spread_over_groups", float(spread.double().mean())


def routing(
    model: PreTrainedModel,
    architecture: Architecture,
    windows: Int[Tensor, "windows window"],
    groups: int | None,
    device: torch.device,
    batch: int,
) -> dict[int, LayerRouting]:
    """Routing of the tokens of all windows, by layer of experts."""
    layers = {
        layer: LayerRouting(architecture.shape(layer).experts, groups)
        for layer in architecture.expert_layers
    }

    def record(places: slice, layer: int, x: Tensor, chosen: Tensor) -> None:
        found = layers[layer]
        found.chosen.append(chosen.cpu())
        if groups is not None:
            router = router_of(model, architecture, layer)
            probabilities = routing_probabilities(router, x).double().cpu()
            found.masses.append(group_masses(probabilities, groups))
            found.leading.append(leading_in_group(probabilities, groups))

    stream_routing(model, architecture, windows, batch, device, record)
    return layers
