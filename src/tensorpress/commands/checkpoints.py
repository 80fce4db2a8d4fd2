"""Checkpoints named on the command line: what they are, and what they are called in a study."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from tensorpress.errors.refusals import LONGEST_NAME
from tensorpress.sources.gguf_files import SUFFIX
from tensorpress.sources.inputs import LocalModel


def local_model(path: str) -> tuple[str, LocalModel] | None:
    """Name and settings of the model of a folder or a GGUF file; ``None`` of what is neither."""
    if Path(path).is_dir() or (Path(path).is_file() and Path(path).suffix == SUFFIX):
        return name_of(Path(path)), LocalModel(source="local", path=path)
    return None


def name_of(path: Path) -> str:
    """A name for the model of a path, as params may have it: keys tell equal ones apart."""
    last = os.path.basename(os.path.abspath(path)).removesuffix(SUFFIX)
    plain = unicodedata.normalize("NFKD", last)
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", plain.encode("ascii", "ignore").decode())
    return name.strip("-_.")[:LONGEST_NAME] or "model"
