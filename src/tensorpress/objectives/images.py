"""Labelled images as lines of text, and their pixels as models take them. Torch-free at the top.

A corpus of images is a text like any other, so that it is fetched, hashed and keyed as one: a JSON
object a line, with the ``label`` and the ``pixels``, ``(channels, height, width)`` whole numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorpress.errors import TensorpressError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Pixels = list[list[list[int]]]
Shape = tuple[int, int, int]
"""Channels, height and width."""


def written(images: Iterable[tuple[int, Pixels]]) -> str:
    """Labels and pixels as lines."""
    return "\n".join(json.dumps({"label": label, "pixels": pixels}) for label, pixels in images)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The images that the model of a ``config.json`` takes; what it lacks is ViT's default."""
    height, width = _sides(config.get("image_size", 224))
    return int(config.get("num_channels", 3)), height, width


def tokens_of(config: Mapping[str, Any]) -> int:
    """Tokens of an image in the model of a ``config.json``: its patches and the class token."""
    _, height, width = shape_of(config)
    down, across = _sides(config.get("patch_size", 16))
    return 1 + (height // down) * (width // across)


def classes_of(config: Mapping[str, Any]) -> int:
    """Labels that the model of a ``config.json`` tells apart: two where it names none."""
    return int(config.get("num_labels") or len(config.get("id2label") or range(2)))


def _sides(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


@dataclass(frozen=True)
class Scaling:
    """Pixels as a model takes them: ``(rescale * pixel - mean) / std``, by channel.

    By ``preprocessor_config.json``, as transformers' image processors read it. Images are neither
    resized nor cropped: theirs must be the size that the model takes.
    """

    shape: Shape
    tokens: int
    classes: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Scaling:
        """Of a model's ``config.json`` and ``preprocessor_config.json``; ``where`` begins errors.

        ``TensorpressError`` if mean and deviation are not one number a channel.
        """
        shape = shape_of(config)
        rescale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
        mean: Any = [0.0] * shape[0]
        std: Any = [1.0] * shape[0]
        if settings.get("do_normalize", True):
            mean, std = (settings.get(name) for name in ("image_mean", "image_std"))
        for name, values in {"image_mean": mean, "image_std": std}.items():
            if not _numbers(values, shape[0]) or (name == "image_std" and 0 in values):
                raise TensorpressError(
                    f"{where}: preprocessor_config.json: {name}: {values} is not allowed; allowed: "
                    f"a number for each of {shape[0]} channels{', none 0' * (name == 'image_std')}"
                )
        if not _numbers([rescale], 1):
            raise TensorpressError(
                f"{where}: preprocessor_config.json: rescale_factor: {rescale} is not allowed; "
                "allowed: a number"
            )
        return cls(shape, tokens_of(config), classes_of(config), rescale, tuple(mean), tuple(std))

    def rows(self, text: str, most: int | None) -> Float[Tensor, "images 1+values"]:
        """The first ``most`` images of a text, or all: of each the label, then what it holds.

        ``TensorpressError`` if there is none, or one is not what the model takes.
        """
        import torch

        lines = text.splitlines()[:most]
        if not lines:
            raise TensorpressError("the corpus has no image; allowed: one a line, 1 or more")
        read = [self._read(number, line) for number, line in enumerate(lines, start=1)]
        pixels = torch.tensor([pixels for _, pixels in read], dtype=torch.float32)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        values = ((self.rescale * pixels - mean) / std).flatten(1)
        return torch.cat([torch.tensor([[float(label)] for label, _ in read]), values], dim=1)

    def _read(self, number: int, line: str) -> tuple[int, Pixels]:
        try:
            image = json.loads(line)
            label, pixels = int(image["label"]), image["pixels"]
            found = (len(pixels), len(pixels[0]), len(pixels[0][0]))
            whole = all(len(row) == found[2] for each in pixels for row in each)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise TensorpressError(
                f"line {number} of the corpus is no image; allowed: a label and pixels"
            ) from error
        if found != self.shape or not whole:
            raise TensorpressError(
                f"line {number} of the corpus is an image of {by(found)}; allowed: {by(self.shape)}"
            )
        if label not in range(self.classes):
            raise TensorpressError(
                f"line {number} of the corpus has label {label}; allowed: 0 to {self.classes - 1}"
            )
        return label, pixels


def by(shape: Shape) -> str:
    """A shape in words."""
    channels, height, width = shape
    return f"{height} x {width} pixels and {channels} channel{'s' * (channels > 1)}"


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(each, int | float) and math.isfinite(each) for each in values)
    )
