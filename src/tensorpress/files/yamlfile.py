"""Params files as they are written: YAML without its surprises. Torch-free.

YAML reads ``no`` as false and ``010`` as 8, and of two equal keys it keeps the last, all without a
word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line
from tensorpress.errors.refusals import Place, dotted, misread

# the same in C, ten times faster, where PyYAML was built with it
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING, _INT, _FLOAT, _MERGE = (
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "merge")
)


@dataclass(frozen=True)
class Written:
    """A file's values, and what stands there in place of those that YAML made no text of."""

    values: Any
    texts: dict[Place, str] = field(default_factory=dict)


def require(path: Path) -> None:
    """``TensorpressError`` where no params file is."""
    if not path.is_file():
        raise TensorpressError(
            f"{path}: no such params file; allowed: --params FILE, as tensorpress init writes one, "
            "or params.yaml, which tensorpress copy params.yaml copies"
        )


def read(path: Path) -> Written:
    """A YAML file; ``TensorpressError`` names the place of what would be misunderstood."""
    require(path)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        texts = dict(_texts(root, (), set())) if root is not None else {}
        return Written(loader.construct_document(root) if root is not None else None, texts)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TensorpressError(f"{path}: not YAML: {one_line(error)}") from error
    except TensorpressError as error:
        raise TensorpressError(f"{path}: {error}") from error


def _texts(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[tuple[Place, str]]:
    """What stands at each unquoted scalar that YAML reads as something else than text."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, place)
        for key, value in node.value:
            yield from _texts(value, (*place, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _texts(value, (*place, index), seen)
    elif isinstance(node, yaml.ScalarNode) and node.tag != _STRING:
        _check_number(node, place)
        yield place, node.value


def _check_keys(node: yaml.MappingNode, place: Place) -> None:
    """Refuse a key that is no text, and one that stands twice."""
    where = dotted(place)
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue  # YAML itself refuses it
        if key.tag not in (_STRING, _MERGE):
            raise TensorpressError(misread(f"{where}: the name", key.value, _value_of(key)))
        line = key.start_mark.line + 1
        first = lines.setdefault(key.value, line)
        if first != line:
            raise TensorpressError(
                f"{where}: the key {key.value!r} stands in line {first} and again in line {line}; "
                "allowed: each key once"
            )


def _check_number(node: yaml.ScalarNode, place: Place) -> None:
    """Refuse what YAML 1.1 takes for base 8 or 60."""
    text = node.value.lstrip("+-").replace("_", "")
    base_8 = node.tag == _INT and len(text) > 1 and text.isdecimal() and text.startswith("0")
    if base_8 or (node.tag in (_INT, _FLOAT) and ":" in text):
        value = _value_of(node)
        meant = f"{value}, where a number is meant, or "
        raise TensorpressError(misread(f"{dotted(place)}:", node.value, value, meant))


def _value_of(node: yaml.ScalarNode) -> Any:
    return yaml.SafeLoader("").construct_object(node)
