"""Errors of ``params.yaml`` in one line: the path in the file, the value, what is allowed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError, raw: Any) -> str:
    """The first of pydantic's errors as ``path: value is not allowed; allowed: ...``."""
    first, *others = error.errors()
    path = _path_in_file(first["loc"], raw)
    if first["type"] == "extra_forbidden":
        text = f"{path}: unknown key"
    elif first["type"] == "missing":
        text = f"{path}: missing"
    elif first["type"] == "union_tag_invalid":
        field = first["ctx"]["discriminator"].strip("'")
        allowed = first["ctx"]["expected_tags"].replace("'", "")
        text = line(f"{path}.{field}", first["ctx"]["tag"], allowed)
    else:
        text = f"{path}: {first['input']!r} is not allowed: {first['msg']}"
    return text + (f" (and {len(others)} more)" if others else "")


def _path_in_file(loc: tuple[int | str, ...], raw: Any) -> str:
    """Pydantic's location without the union tags, which are not in the file."""
    path: list[str] = []
    for index, part in enumerate(loc):
        inside = (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        )
        if inside:
            raw = raw[part]
        is_tag = isinstance(part, str) and part.startswith("<")
        if inside or (index == len(loc) - 1 and not is_tag):
            path.append(str(part))
    return ".".join(path) or "the file"


def line(path: str, value: object, allowed: str) -> str:
    """How every refusal reads."""
    return f"{path}: {value!r} is not allowed; allowed: {allowed}"


def listed(names: Any) -> str:
    """Names as they stand in a refusal."""
    return ", ".join(names)
