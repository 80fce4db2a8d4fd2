"""What an image classifier learns from: the training split of the digits, moved by a pixel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensorpress.objectives.images import Scaling, written
from tensorpress.sources.companions import PREPROCESSOR
from tensorpress.sources.digits import DEEPEST, digits
from tensorpress.sources.embedded.lessons import Lessons
from tensorpress.sources.embedded.specs import EmbeddedSpec

SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": False,
    "do_rescale": True,
    "rescale_factor": 1 / DEEPEST,
    "do_normalize": True,
    "image_mean": [0.5],
    "image_std": [0.5],
}
MOVED = 1
"""Pixels by which an image is moved at most, down and across."""


@dataclass(frozen=True)
class Preprocessor:
    """How pixels are scaled, as the file that transformers' image processors read."""

    def save_pretrained(self, save_directory: Path) -> None:
        """Write it into a folder."""
        (save_directory / PREPROCESSOR).write_text(json.dumps(SETTINGS, indent=1))


def labels_of_digits(spec: EmbeddedSpec, seed: int) -> Lessons:
    """Images and their labels; after the first steps every image is moved at random."""
    scaling = Scaling.of(spec.config, SETTINGS, "digits")
    rows = scaling.rows(written(digits("train")), None)
    labels, images = rows[:, 0].long(), rows[:, 1:].view(-1, *scaling.shape)
    count = spec.batch_tokens // scaling.tokens

    def batches(moved: int) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(images), generator=generator)
            for part in order[: len(images) // count * count].split(count):
                shown = _moved(images[part], moved, generator)
                yield {"pixel_values": shown, "labels": labels[part]}

    return Lessons(Preprocessor(), batches(0), batches(MOVED))


def _moved(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image ``(channels, height, width)`` moved down and across, at its edges as the corner.

    The corners of the digits are empty.
    """
    if not most:
        return images
    height, width = images.shape[2:]
    empty = pad(images, (most,) * 4, value=float(images.min()))
    places = torch.randint(2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [
            image[:, down : down + height, across : across + width]
            for image, (down, across) in zip(empty, places, strict=True)
        ]
    )
