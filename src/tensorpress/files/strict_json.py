"""JSON that every parser reads: what is no number is ``null``. Torch-free."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_json


def strict_json(value: Any, sort_keys: bool = False) -> str:
    """The text of records, indented; NaN and infinities, which JSON has not, become ``null``."""
    plain = json.loads(to_json(value, inf_nan_mode="null"))
    return json.dumps(plain, indent=1, sort_keys=sort_keys, allow_nan=False)
