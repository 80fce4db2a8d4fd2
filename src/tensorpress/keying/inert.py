"""Statements that no number depends on. Torch-free."""

from __future__ import annotations

import ast
from typing import Any, TypeGuard

UNKEYED_DECORATOR = "unkeyed"
"""Name of the decorator that marks functions (``keys.unkeyed``)."""


def is_text(node: Any) -> bool:
    """Whether it is a string by itself, which changes nothing wherever it stands."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_for_types(node: Any) -> TypeGuard[ast.If]:
    """Whether it is read by type checkers alone."""
    if not isinstance(node, ast.If):
        return False
    named = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node.test), "")
    return getattr(node.test, named, None) == "TYPE_CHECKING"


def is_marked(node: Any) -> bool:
    """Whether it is a function that is marked as unkeyed."""
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(each, ast.Name) and each.id == UNKEYED_DECORATOR for each in node.decorator_list
    )
