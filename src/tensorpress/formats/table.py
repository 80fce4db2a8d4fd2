"""Format name -> class: what a checkpoint's plan may name."""

from .base import Format
from .dense import DenseSlices
from .low_rank import LowRank
from .tt_matrix import TTMatrix
from .tucker_heads import TuckerHeads
from .tucker_slices import TuckerSlices
from .zero import Zero

FORMATS: dict[str, type[Format]] = {
    each.name: each for each in (DenseSlices, Zero, LowRank, TTMatrix, TuckerSlices, TuckerHeads)
}
