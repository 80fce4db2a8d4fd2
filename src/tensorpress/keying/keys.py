"""Artifact keys: the one truth about staleness that Snakemake and DVC share. Torch-free.

A key is the first 10 hex digits of SHA-256 over canonical JSON of the stage's settings with
defaults filled in, the fingerprint of the code its numbers depend on (``fingerprints.py``), and the
keys upstream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def key(**what: Any) -> str:
    """Ten hex digits that identify ``what`` (JSON values) whatever the order of its fields."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def file_fingerprint(*files: Path) -> str:
    """SHA-256 over the contents of ``files``, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def unkeyed(function: Function) -> Function:
    """Mark a function or a method on which no number depends, such as an estimate for planning.

    It is part of no key; a module says the same of all that is in it by a constant ``UNKEYED``.
    """
    return function
