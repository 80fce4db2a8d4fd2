"""What pages have in common is shipped once: styles and scripts as files of their own."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

ASSETS = "assets"
LEAST = 300
"""Characters below which a part stays where it is."""
_PART = re.compile(
    r'<(style|script)(?: type="text/(?:css|javascript)")?>(.*?)</\1>', re.DOTALL | re.IGNORECASE
)
"""A style or a classic script in a page: modules must stay, no browser loads them from a disk."""


def with_assets(pages: Mapping[str, str]) -> dict[str, str]:
    """Pages by their place in a site, and beside them what at least two of them hold."""
    held = Counter(
        name for page in pages.values() for name in {_name(found) for found in _parts(page)}
    )
    files: dict[str, str] = {}

    def moved(found: re.Match[str], up: str) -> str:
        name = _name(found)
        if held[name] < 2:
            return found[0]
        files[name] = found[2]
        where = f"{up}{name}"
        if found[1].lower() == "style":
            return f'<link rel="stylesheet" href="{where}">'
        return f'<script src="{where}"></script>'

    for place, page in pages.items():
        up = "../" * place.count("/")
        files[place] = _PART.sub(lambda found, up=up: moved(found, up), page)  # type: ignore[misc]
    return files


def _parts(page: str) -> list[Any]:
    return [found for found in _PART.finditer(page) if len(found[2]) >= LEAST]


def _name(found: re.Match[str]) -> str:
    ending = "css" if found[1].lower() == "style" else "js"
    return f"{ASSETS}/{hashlib.sha256(found[2].encode()).hexdigest()[:10]}.{ending}"
