"""A budget that several modules share: what may be chosen, and what each was given. Torch-free."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tensorpress.methods.budget import Ranked


class Curve(BaseModel):
    """What every rank of one matrix costs and loses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int
    module: str
    index: int
    """Which slice of the module the matrix is."""
    rank_values: int
    """Values of one rank."""
    whole_values: int
    """Those of the matrix itself."""
    damages: tuple[float, ...]
    """Predicted rise of the loss, nats per token, at rank 0, 1, ... as long as factors are smaller
    than the matrix."""


class LayerShare(BaseModel):
    """What the modules of one layer were given: a share of their values, or their ranks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int
    kept: float
    ranks: tuple[Ranked, ...] = ()


class Allocation(BaseModel):
    """How modules share one budget: ``stored_values`` of ``dense_values``, in all.

    ``damage``: predicted, in nats per token; ``price``: nats for the last value that was taken.
    Both are known where ranks were chosen by them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    saved: float
    dense_values: int
    stored_values: int
    damage: float | None = None
    price: float | None = None
    layers: tuple[LayerShare, ...]

    @classmethod
    def read(cls, file: Path) -> Allocation:
        """What ``stages.advise`` wrote."""
        return cls.model_validate_json(file.read_text(encoding="utf-8"))

    def of(self, layer: int) -> LayerShare:
        """The share of a layer."""
        return next(share for share in self.layers if share.layer == layer)
