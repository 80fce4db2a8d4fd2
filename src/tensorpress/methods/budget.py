"""How large ranks may be: those given, or the largest that a budget of values allows.

A budget is that of every module alone, or one that all modules of a recipe's step share
(``allocate``), and then the advice says what each gets (``methods.allocation``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from tensorpress.errors import TensorpressError
from tensorpress.keying.section import Section


def left_out(given: Any, *names: str) -> Any:
    """What a user gives, unless it says what the advice fills in: copies of settings have that."""
    if wrong := [name for name in names if isinstance(given, Mapping) and given.get(name)]:
        raise ValueError(f"{wrong[0]} is filled in from the advice; allowed: leave it out")
    return given


class Ranked(Section):
    """The ranks of a module's slices: ``None`` for a matrix that is kept whole."""

    module: str
    ranks: tuple[int | None, ...]


class Budget(Section):
    """How small the result must be, in place of ranks; ``kept`` and ``ranks`` come from advice."""

    saved: float = Field(gt=0, lt=1, description="share of the modules' values to save")
    allocate: Literal["uniform", "importance", "loss"] = Field(
        "uniform",
        description="what of it each module of a step gets: all the same share; more in layers "
        "that turn their inputs further (FLAT-LLM); ranks of least predicted loss",
    )
    granularity: Literal["matrix", "module", "layer"] = Field(
        "matrix",
        description="loss: what has a rank of its own; all matrices of a layer have the same share",
    )
    floor: int = Field(1, ge=0, description="loss: the least rank of a matrix")
    kept: SkipJsonSchema[float | None] = None
    ranks: SkipJsonSchema[tuple[Ranked, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        return left_out(given, "kept", "ranks")

    @model_validator(mode="after")
    def _of_loss(self) -> Self:
        given = {"granularity", "floor"} & self.model_fields_set
        if given and self.allocate != "loss":
            raise ValueError(
                f"{min(given)} belongs to allocate: loss, not to {self.allocate!r}; "
                "allowed: leave it out"
            )
        return self

    @property
    def to_save(self) -> float:
        """Share of the values to save, as the advice says or else as it is written."""
        return self.saved if self.kept is None else 1.0 - self.kept

    def allowed(self, values: int) -> int:
        """Values that may be stored in place of ``values``."""
        return math.floor((1.0 - self.to_save) * values)

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
                f"budget.saved: {self.to_save} leaves no room for rank 1 at {where}; "
                f"allowed: up to {1 - values(1) / dense:.4f}"
            )
        return low

    def proportional(
        self,
        limits: Mapping[str, int],
        values: Callable[[Mapping[str, int]], int],
        dense: int,
        where: str,
        whole: int = 1,
    ) -> dict[str, int]:
        """Ranks that fit: all the same share of their limits, then filled up one by one.

        No mode's rank is above the product of all others' and of ``whole``, the sizes of modes
        that are not truncated (De Lathauwer et al. 2000): more would store zeros. The widest mode
        is filled up first. ``values(ranks)`` must grow with every rank.
        """
        widest = max(limits.values())

        def useful(ranks: dict[str, int], name: str) -> int:
            others = (rank for other, rank in ranks.items() if other != name)
            return min(limits[name], whole * math.prod(others))

        def shared(step: int) -> dict[str, int]:
            ranks = {name: max(1, limit * step // widest) for name, limit in limits.items()}
            for name in sorted(limits, key=lambda n: -limits[n]):
                ranks[name] = min(ranks[name], useful(ranks, name))
            return ranks

        step = self.largest(widest, lambda s: values(shared(s)), dense, where)
        ranks, allowed = shared(step), self.allowed(dense)
        for name in sorted(limits, key=lambda n: -limits[n]):
            while ranks[name] < useful(ranks, name):
                more = {**ranks, name: ranks[name] + 1}
                if values(more) > allowed:
                    break
                ranks = more
        return ranks


def require_rank(field: str, rank: int, limit: int, where: str) -> None:
    """Raise ``TensorpressError`` if ``rank`` is above ``limit`` (``where`` names the module)."""
    if rank > limit:
        raise TensorpressError(
            f"{field}: {rank} is above the limit at {where}; allowed: 1 to {limit}"
        )
