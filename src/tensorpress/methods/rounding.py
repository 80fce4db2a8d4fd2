"""The setting that rounds factors, and the one way to apply it. Torch-free until it is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tensorpress.keying.section import Section

if TYPE_CHECKING:
    import torch

    from tensorpress.formats.base import Format


class Rounding(Section):
    """Factors rounded to nearest, symmetrically, with one scale a factor or a group."""

    bits: int = Field(4, ge=2, le=8)
    group_size: int | None = Field(
        None, ge=2, description="adjacent values that share a scale; without it a factor's all do"
    )

    @property
    def label(self) -> str:
        """Short name: ``int4``."""
        return f"int{self.bits}"

    def applied(self, store: Format, scales: torch.dtype) -> Format:
        """``store`` with its factors rounded (``formats.rounded``), its scales of that dtype."""
        from tensorpress.formats.rounded import rounded

        return rounded(store, self.bits, self.group_size, scales)
