"""Format name -> class: the one place where a new format is listed. A format's file has its name.

They are imported, not named as text: transformers finds the files of a checkpoint's code by their
relative imports.
"""

from .base import Format
from .cp import CP
from .dense import DenseSlices
from .low_rank import LowRank
from .mobe import MoBE
from .per_head import PerHead
from .ragged import Ragged
from .rounded import Rounded
from .shared_basis import SharedBasis
from .sparse import Sparse
from .sparse_tucker import SparseTucker
from .subset import Subset
from .sum import Sum
from .tt_matrix import TTMatrix
from .tt_sparse import TTSparse
from .tucker_heads import TuckerHeads
from .tucker_matrix import TuckerMatrix
from .tucker_slices import TuckerSlices
from .two_four import TwoFour
from .zero import Zero

UNKEYED = "the formats of factors are entries of their own in the keys (identities.py)"

CLASSES = (
    DenseSlices,
    Zero,
    LowRank,
    Ragged,
    TTMatrix,
    TTSparse,
    Sparse,
    TwoFour,
    TuckerMatrix,
    PerHead,
    TuckerSlices,
    TuckerHeads,
    SparseTucker,
    SharedBasis,
    CP,
    MoBE,
    Subset,
    Rounded,
    Sum,
)
FORMATS: dict[str, type[Format]] = {each.name: each for each in CLASSES}
