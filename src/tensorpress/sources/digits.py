"""scikit-learn's digits: 1797 handwritten ones, 8 x 8 pixels of 0 to 16, with every install of it.

They are the held-out half of Alpaydin & Kaynak 1998 (UCI), of 13 writers. Those of a writer follow
each other, so that the last quarter is of writers whom the first three quarters hardly have.
"""

from __future__ import annotations

from typing import Literal

from tensorpress.objectives.images import Pixels

DEEPEST = 16
"""The value of black."""
TRAINED = 1347
"""Images of the training split, the first ones: three quarters."""


def digits(split: Literal["train", "heldout"]) -> list[tuple[int, Pixels]]:
    """Labels and pixels ``(1, 8, 8)`` of a split, in their order."""
    # a second to import
    from sklearn.datasets import load_digits

    found = load_digits()
    part = slice(TRAINED) if split == "train" else slice(TRAINED, None)
    labels, pixels = found.target[part].tolist(), found.images[part].astype(int).tolist()
    return [(label, [rows]) for label, rows in zip(labels, pixels, strict=True)]
