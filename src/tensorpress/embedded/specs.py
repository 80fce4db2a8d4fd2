from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EmbeddedSpec:
    config: dict[str, Any]


EMBEDDED: dict[str, EmbeddedSpec] = {}
