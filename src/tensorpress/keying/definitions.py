"""What a module defines: its top-level functions, classes and constants. Torch-free."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tensorpress.keying.codetext import (
    Meaning,
    Reference,
    Text,
    text_of,
)
from tensorpress.keying.inert import is_for_types, is_marked, is_text

UNKEYED = "UNKEYED"
"""Constant by which a module says why no number depends on it, so that it is part of no key."""


@dataclass
class Module:
    """A module's source; ``loose`` are the statements that do more than to define a name."""

    name: str
    path: Path
    package: frozenset[str]
    """Names of all modules of the package."""
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Meaning] = field(default_factory=dict)
    loose: list[ast.stmt] = field(default_factory=list)
    loose_names: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, name: str, path: Path, package: frozenset[str]) -> Module:
        """Parse a file."""
        module = cls(name, path, package)
        module._collect(ast.parse(path.read_text(encoding="utf-8")).body)
        return module

    @property
    def is_unkeyed(self) -> bool:
        """Whether the module says that no number depends on it."""
        return UNKEYED in self.definitions

    def is_marked(self, name: str) -> bool:
        """Whether a definition is a function that is marked as unkeyed."""
        return any(is_marked(statement) for statement in self.definitions.get(name, ()))

    def text(self, name: str) -> Text:
        """Text of a definition, or of the loose statements for an empty name."""
        return text_of(self.definitions[name] if name else self.loose, self)

    def meaning(self, name: str) -> Meaning | None:
        """What a global name means, ``None`` if it is no name of the module."""
        if name in self.definitions or name in self.loose_names:
            return Reference(self.name, (name,))
        return self.imports.get(name)

    def bindings(self, statement: ast.Import | ast.ImportFrom) -> dict[str, Meaning]:
        """What the names mean that an import binds."""
        if isinstance(statement, ast.Import):
            named = [(a.asname or a.name.split(".")[0], a) for a in statement.names]
            return {name: self._origin(a.name if a.asname else name) for name, a in named}
        base = self._base(statement)
        return {a.asname or a.name: self._origin(base, a.name) for a in statement.names}

    def _collect(self, statements: Iterable[ast.stmt]) -> None:
        for statement in chain.from_iterable(map(_single, statements)):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self.imports |= self.bindings(statement)
            elif is_for_types(statement):
                self._collect(statement.orelse or statement.body)  # what runs, if anything does
            elif (names := _defined(statement)) is not None:
                for name in names:
                    self.definitions.setdefault(name, []).append(statement)
            elif not is_text(statement):
                self.loose.append(statement)
                for node in ast.walk(statement):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        self.imports |= self.bindings(node)
                    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                        self.loose_names.add(node.id)
                    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                        self.loose_names.add(node.name)

    def _origin(self, module: str, *path: str) -> Meaning:
        return Reference(module, path) if module in self.package else ".".join((module, *path))

    def _base(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        above = statement.level - (self.path.name == "__init__.py")
        parents = self.name.split(".")
        return ".".join([*parents[: len(parents) - above], *filter(None, [statement.module])])


def _single(statement: ast.stmt) -> list[ast.stmt]:
    """``a, b = 1, 2`` as two statements, so that each name has the digest of its own value."""
    match statement:
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if (
            len(names) == len(values)
            and all(isinstance(name, ast.Name) for name in names)
            and not any(isinstance(value, ast.Starred) for value in values)
        ):
            pairs = zip(names, values, strict=True)
            return [ast.Assign(targets=[name], value=value) for name, value in pairs]
    return [statement]


def _defined(statement: ast.stmt) -> list[str] | None:
    """Names that a statement defines, ``None`` if it is none that only defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id] if statement.value is not None else []
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            return [target.id]
    return None
