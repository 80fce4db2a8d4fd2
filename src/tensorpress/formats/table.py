from .base import Format
from .dense import DenseSlices
from .low_rank import LowRank
from .zero import Zero

FORMATS: dict[str, type[Format]] = {f.name: f for f in (DenseSlices, LowRank, Zero)}
