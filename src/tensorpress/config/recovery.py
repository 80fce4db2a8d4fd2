"""Recovery: what is trained after compression, on which text, against what. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tensorpress.keying.section import Section
from tensorpress.methods.rounding import Rounding
from tensorpress.sources.inputs import Name


class Distillation(Section):
    """The dense model's next-token distribution in place of the text's next token, or beside it.

    The loss is ``(1 - share) CE + share T^2 KL(dense_T || compressed_T)``, where ``_T`` is of
    logits over the temperature (Hinton et al. 2015, section 2). The dense model runs beside.
    """

    temperature: float = Field(1.0, gt=0)
    share: float = Field(1.0, gt=0, le=1, description="of the divergence in the loss")


class Training(Section):
    """What all kinds of recovery have; a recipe is run once for every seed."""

    steps: int = Field(100, ge=1)
    accumulation: int = Field(8, ge=1, description="batches of one step")
    batch: int = Field(1, ge=1, description="windows of one forward pass")
    window: int = Field(256, ge=2, description="tokens; 512 for models of 4096")
    bos: bool = Field(False, description="each window begins with the BOS token")
    corpus: Name | None = Field(None, description="text to train on; null: the calibration's")
    distil: Distillation | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)


class Adapters(Training):
    """Low-rank adapters beside the factors (LoRA): ``rank * (in + out)`` values a matrix.

    Defaults are those of the study (README).
    """

    train: Literal["adapters"]
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1, description="adapters are scaled by alpha / rank")
    learning_rate: float = Field(2e-4, gt=0)
    modules: Literal["compressed", "all"] = Field(
        "compressed", description="all: the plain linear layers of the model too"
    )
    keep: Literal["kept", "merged"] = Field(
        "kept", description="merged: into matrices stored whole; beside factors they stay"
    )
    rounding: Rounding | None = Field(None, description="of the adapters")


class Factors(Training):
    """The stored values themselves: cores, factors, sparse values, scales. Bits stay as they are.

    Healing (CompactifAI, Tomut et al. 2024), training of the factors (Saten). Masks, indices and
    codes do not change.
    """

    train: Literal["factors"]
    learning_rate: float = Field(
        3e-3, gt=0, description="of a factor whose root mean square is one; others in proportion"
    )
    norms: bool = Field(False, description="train the model's norms too")
    rounding: Rounding | None = Field(None, description="of the trained factors, at the end")


Recovery = Annotated[Adapters | Factors, Field(discriminator="train")]
