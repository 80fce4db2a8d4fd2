"""Which factors hold those of smaller ranks, so that one factorisation serves them all.

Torch-free. It is part of no key, for the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tensorpress.architectures.layers import LayerShape
from tensorpress.planning.artifacts import DecompositionArtifact, FactorPlacement


def largest_holders(placements: Iterable[FactorPlacement]) -> dict[tuple[str, int], str]:
    """(id, layer) of each nested decomposition -> id of the largest one there that holds it.

    One that no other holds has its own id.
    """
    together: dict[tuple[str, str, int], list[DecompositionArtifact]] = {}
    for placement in placements:
        made = placement.decomposition
        if made.spec.nested:
            at = (made.model.name, made.group, placement.layer)
            together.setdefault(at, []).append(made)
    known: dict[tuple[int, tuple[str, ...]], dict[str, str]] = {}
    found: dict[tuple[str, int], str] = {}
    for (_, group, layer), peers in together.items():
        architecture = peers[0].model.architecture
        like = architecture.representatives[layer]
        # every pair is compared: once for all layers that are alike
        alike = (like, tuple(made.id for made in peers))
        if alike not in known:
            known[alike] = _largest(peers, architecture.shape(like), group)
        found |= {(inner, layer): outer for inner, outer in known[alike].items()}
    return found


def _largest(
    peers: Sequence[DecompositionArtifact], shape: LayerShape, group: str
) -> dict[str, str]:
    """Id of each decomposition -> id of the one with the largest ranks that holds its factors."""
    size = {
        made.id: sum(layout.rank_sum for layout in made.spec.layouts(shape, group))
        for made in peers
    }
    largest_first = sorted(peers, key=lambda made: (size[made.id], made.id), reverse=True)
    return {
        made.id: next(
            o.id for o in largest_first if o.spec.contains_factors_of(made.spec, shape, group)
        )
        for made in peers
    }
