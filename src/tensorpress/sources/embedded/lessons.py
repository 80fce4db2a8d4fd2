"""What an embedded model learns from, whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


class Companion(Protocol):
    """What goes with a model's weights: a tokenizer, or what scales images."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write its files into a folder."""


@dataclass(frozen=True)
class Lessons:
    """Endless batches: what the model's forward takes, labels included."""

    companion: Companion
    first: Iterator[dict[str, Tensor]]
    """Of the first steps, easier ones."""
    then: Iterator[dict[str, Tensor]]
