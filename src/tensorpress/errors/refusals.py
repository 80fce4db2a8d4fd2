"""Errors of ``params.yaml`` in one line: the path in the file, the value, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from pydantic import ValidationError

UNKEYED = "what is refused is not made"

Place = tuple[int | str, ...]
"""Keys and indices that lead to a value."""

TAGS = ("method", "kind", "source", "train", "transform")
"""Keys whose values say which settings stand beside them: pydantic's locations have them, too."""
LONGEST_NAME = 60
"""Characters: files are named after a model, its methods and a task, in 255 bytes."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
ALLOWED_NAMES = (
    f"up to {LONGEST_NAME} of A-Z, a-z, 0-9, '_', '.' and '-', the first a letter or digit"
)

ALLOWED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "names with values",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "names with values",
    "model_attributes_type": "names with values",
    "too_short": "{min_length} or more entries",
}
"""What is, by the type of pydantic's error."""


def explain(
    error: ValidationError, raw: Any, texts: Mapping[Place, str], schema: Mapping[str, Any]
) -> str:
    """The first of pydantic's errors as ``path: value is not allowed; allowed: ...``.

    A key that is not known comes first: what is missing may be what it was to be. ``texts``: what
    stands in the file at values that YAML made no text of. ``schema``: the JSON schema of the file.
    """
    first, *others = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = _place_in_file(first["loc"], raw, first["type"] == "missing")
    path, value, context = dotted(place), first["input"], first.get("ctx", {})
    is_key = first["loc"][-1:] == ("[key]",)
    if is_key:
        place, path = (), f"{dotted(_place_in_file(first['loc'][:-2], raw))}: the name"
    if first["type"] == "extra_forbidden":
        text = f"{path}: unknown key; allowed: {listed(allowed_keys(schema, raw, place[:-1]))}"
    elif first["type"] == "missing":
        text = f"{path}: missing"
    elif first["type"] == "union_tag_invalid":
        field = context["discriminator"].strip("'")
        text = line(f"{path}.{field}", context["tag"], context["expected_tags"].replace("'", ""))
    elif first["type"] == "union_tag_not_found":
        text = f"{path}.{context['discriminator'].strip(chr(39))}: missing"
    elif first["type"] == "string_type" and not isinstance(value, dict | list):
        text = misread(path if is_key else f"{path}:", texts.get(place), value)
    elif context.get("pattern") == NAME_PATTERN or context.get("max_length") == LONGEST_NAME:
        text = f"{path if is_key else path + ':'} {_cut(value)} is not allowed"
        text += f"; allowed: {ALLOWED_NAMES}"
    elif first["type"] in ALLOWED:
        text = f"{path}: {_cut(value)} is not allowed; allowed: "
        text += ALLOWED[first["type"]].format(**context)
    else:
        text = f"{path}: {_cut(value)} is not allowed: {first['msg'].removeprefix('Value error, ')}"
    return text + (f" (and {len(others)} more)" if others else "")


def allowed_keys(schema: Mapping[str, Any], raw: Any, place: Place) -> list[str]:
    """Keys that a JSON schema has for the value at a place of ``raw``, in order."""
    found = _kinds(schema, schema, raw)
    for part in place:
        raw = raw[part]
        inside = [one for each in found for one in _inside(each, part)]
        found = [kind for each in inside for kind in _kinds(schema, each, raw)]
    return sorted({key for each in found for key in each.get("properties", {})})


def _inside(given: Mapping[str, Any], part: int | str) -> list[Mapping[str, Any]]:
    """Schemas of what stands under a key or an index; of names any may stand there."""
    own = given.get("properties", {}).get(part)
    named = [*given.get("patternProperties", {}).values(), given.get("additionalProperties")]
    return [own] if own else [each for each in (*named, given.get("items")) if each]


def _kinds(
    schema: Mapping[str, Any], given: Mapping[str, Any], value: Any
) -> list[Mapping[str, Any]]:
    """The schemas that ``given`` may stand for: those whose tags (``method``) a value has."""
    if "$ref" in given:
        return _kinds(schema, schema["$defs"][given["$ref"].rpartition("/")[2]], value)
    choices = given.get("anyOf") or given.get("oneOf")
    if choices:
        return [kind for each in choices for kind in _kinds(schema, each, value)]
    tags = {k: v["const"] for k, v in given.get("properties", {}).items() if "const" in v}
    fits = not isinstance(value, dict) or all(value.get(k, v) == v for k, v in tags.items())
    return [given] if fits else []


def truth_for_number(
    raw: Any, used: Any, texts: Mapping[Place, str], place: Place = ()
) -> str | None:
    """Refusal of the first ``yes``, ``on`` or ``true`` that pydantic took for a number.

    ``used``: the values that it made of ``raw``, with their defaults.
    """
    if isinstance(raw, bool) and not isinstance(used, bool):
        text = texts.get(place, json.dumps(raw))
        return f"{dotted(place)}: {text} is read by YAML as {json.dumps(raw)}; allowed: a number"
    if isinstance(raw, Mapping):
        (used,) = used if isinstance(used, list | tuple) else (used,)  # one stands for a list
        inside: Iterable[tuple[int | str, Any, Any]] = ((k, v, used[k]) for k, v in raw.items())
    elif isinstance(raw, list | tuple):
        inside = ((i, v, u) for i, (v, u) in enumerate(zip(raw, used, strict=True)))
    else:
        return None
    found = (truth_for_number(value, made, texts, (*place, part)) for part, value, made in inside)
    return next(filter(None, found), None)


def _place_in_file(loc: Place, raw: Any, lacks_last: bool = False) -> Place:
    """Pydantic's location in the file, which has no union tags; but what it lacks is named."""
    place: list[int | str] = []
    tagged = False
    for index, part in enumerate(loc):
        # a method may have a setting of its own name: the tag stands before it
        if not tagged and isinstance(raw, dict) and part in [raw.get(tag) for tag in TAGS]:
            tagged = True
            continue
        inside = (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        )
        if inside:
            raw, tagged = raw[part], False
        if inside or (lacks_last and index == len(loc) - 1):
            place.append(part)
    return tuple(place)


def dotted(place: Place) -> str:
    """A place as errors name it."""
    return ".".join(map(str, place)) or "the file"


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 2 * LONGEST_NAME else f"{text[:LONGEST_NAME]}… ({len(text) - 2})"


def misread(where: str, text: str | None, value: object, allowed: str = "") -> str:
    """Refusal of what YAML makes no text of; ``text`` stands in the file, if that is known."""
    if value is None and not text:
        return f"{where} nothing is not allowed; allowed: a text"
    spelled = json.dumps(value, default=str)  # null, true, false, numbers
    written = spelled if text is None else text
    kind = "the date " * isinstance(value, date)
    allowed += f'a quoted text ("{written}")'
    return f"{where} {written} is read by YAML as {kind}{spelled}; allowed: {allowed}"


def line(path: str, value: object, allowed: str) -> str:
    """How every refusal reads."""
    return f"{path}: {value!r} is not allowed; allowed: {allowed}"


def listed(names: Any) -> str:
    """Names as they stand in a refusal."""
    return ", ".join(names)
