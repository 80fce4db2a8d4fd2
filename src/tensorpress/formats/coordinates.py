"""How many bits the place of an entry takes. Torch-free, for planning counts them too."""


def coordinate_bits(out_features: int, in_features: int) -> tuple[int, int]:
    """Bits of a row and of a column: ``ceil(log2 out)`` and ``ceil(log2 in)``."""
    return (out_features - 1).bit_length(), (in_features - 1).bit_length()
