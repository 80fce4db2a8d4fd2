"""A transform makes a model of a model, before anything is measured or decomposed. Torch-free.

A method replaces the matrix of a module by factors of the same shape. What changes several modules
together, or shapes, or what stands between modules, is a transform: its result is a checkpoint with
a config of its own, on which everything downstream works as on a fetched one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from tensorpress.architectures.architecture import Architecture
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.checkpoints.checkpoint import Checkpoint


class Transform(Section, ABC):
    """One way to make a model of a model, with its settings as written in ``params.yaml``."""

    approach: ClassVar[Approach] = "control"
    """What it is beside methods; a control computes what the model did."""
    reads_stream: ClassVar[bool] = False
    """Whether it goes by the second moments of what norms hand on (rule ``stream``)."""

    transform: str

    @abstractmethod
    def planned(self, architecture: Architecture, where: str) -> Architecture:
        """That of the result; no weights are needed.

        ``TensorpressError`` where the model cannot be transformed; ``where`` begins it.
        """

    @abstractmethod
    def tensors(
        self, source: Checkpoint, stream: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the result's tensors, read one by one; dtypes stay.

        ``stream``: moments ``(hidden, hidden)`` by the paths of norms, empty if it reads none.
        """
