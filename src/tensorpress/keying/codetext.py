"""Text of a definition: its syntax tree as text that only a change of what it computes changes.

Comments, layout, docstrings, annotations of functions and of variables in them (those of class
bodies count: pydantic and dataclasses read them), descriptions of settings, and what an error says
are no part of it. A name of another definition of the package is none either, but a ``Reference``,
so that neither its place nor its name counts; what is imported from elsewhere is written with its
origin. The text is the same under every Python. Torch-free.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tensorpress.keying.inert import is_for_types, is_marked, is_text
from tensorpress.keying.keys import file_fingerprint

_DESCRIBED = "pydantic.Field"
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DOTTED = re.compile(r"(\w+(?:\.\w+)+)(?::(\w+))?")
"""A module, or ``module:name``, as a string names it."""


class Reference(NamedTuple):
    """A module of the package, and the names that are followed from there: ``a.b`` -> ``f.g``."""

    module: str
    path: tuple[str, ...] = ()


Meaning = Reference | str
"""Of a global name: something of the package, or where it is imported from."""


class Globals(Protocol):
    """What a text must know of its module."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def package(self) -> frozenset[str]:
        """Names of all modules of the package."""

    def meaning(self, name: str) -> Meaning | None:
        """What a global name means, ``None`` if it is no name of the module."""

    def bindings(self, statement: ast.Import | ast.ImportFrom) -> dict[str, Meaning]:
        """What the names mean that an import binds."""


class Text(NamedTuple):
    """What a definition says, and what it refers to, in the order in which it does."""

    text: str
    references: tuple[Reference, ...]


def text_of(statements: Iterable[ast.stmt], module: Globals) -> Text:
    """Text of top-level statements, without the name that each of them defines.

    Data files beside the module count that are named where ``__file__`` is used.
    """
    writer = _Writer(module)
    for statement in statements:
        writer.definition(statement)
    return writer.text()


@dataclass
class _Scope:
    """Names that a function, a class body or a comprehension binds; ``None`` means a variable.

    Functions do not see the names of the class bodies around them.
    """

    kind: type[ast.AST]
    meanings: dict[str, Meaning | None] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)
    """Names that it declares to be another scope's."""


_Scopes = tuple[_Scope, ...]
"""From the outermost to that of a node."""


class _Writer:
    """Writes the text of a definition.

    Names are looked up when all of it is read: a scope may bind a name after it was used.
    """

    def __init__(self, module: Globals) -> None:
        self.module = module
        self.parts: list[str] = []
        self.strings: set[str] = set()
        self._names: list[tuple[int, str, tuple[str, ...], _Scopes]] = []
        """Place in the parts, a name and attributes of it, and where it is used."""
        self._named: list[tuple[int, Reference]] = []
        """Modules that strings name."""

    def text(self) -> Text:
        """What was written, with every name as what it means."""
        found = list(self._named)
        for place, name, path, scopes in self._names:
            meaning = self._meaning(name, scopes)
            if isinstance(meaning, Reference):
                found.append((place, Reference(meaning.module, (*meaning.path, *path))))
            elif meaning is not None:
                self.parts[place] = f"<{'.'.join([meaning, *path])}>"
            else:
                self.parts[place] = f"Name({'.'.join([name, *path])})"
        if "Name(__file__)" in self.parts:
            files = sorted(self.module.path.parent / name for name in self.strings)
            self.parts.append(file_fingerprint(*(path for path in files if path.is_file())))
        return Text("".join(self.parts), tuple(reference for _, reference in sorted(found)))

    def definition(self, statement: ast.stmt) -> None:
        """A top-level statement, without the name that it defines."""
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            self._function(statement, ())
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            self.node(statement.value, ())
        else:
            self.node(statement, ())

    def node(self, node: Any, scopes: _Scopes) -> None:
        """A node of a syntax tree, or a list of them, or a plain value."""
        if isinstance(node, ast.AST):
            _WRITES.get(type(node), _Writer._fields)(self, node, scopes)
        elif isinstance(node, list):
            self.parts.append("[")
            for item in node:
                for_types = is_for_types(item) and not item.orelse
                if not is_text(item) and not for_types and not is_marked(item):
                    before = len(self.parts)
                    self.node(item, scopes)
                    if len(self.parts) > before:
                        self.parts.append(",")
            self.parts.append("]")
        else:
            self.parts.append(repr(node))

    def _fields(self, node: ast.AST, scopes: _Scopes) -> None:
        """All fields, empty ones left out: what later Pythons add is empty mostly."""
        self.parts.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("ctx", "kind"):
                self.parts.append(f"{name}=")
                self.node(value, scopes)
        self.parts.append(")")

    def _name(self, node: ast.Name, scopes: _Scopes) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._bind(node.id, scopes)
        self._use(node.id, (), scopes)

    def _attribute(self, node: ast.Attribute, scopes: _Scopes) -> None:
        path: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._use(inner.id, tuple(path), scopes)
        else:
            self.node(inner, scopes)
            self.parts.append("." + ".".join(path))

    def _use(self, name: str, path: tuple[str, ...], scopes: _Scopes) -> None:
        self._names.append((len(self.parts), name, path, scopes))
        self.parts.append("<>")

    def _meaning(self, name: str, scopes: _Scopes) -> Meaning | None:
        for scope in reversed(scopes):
            hidden = scope.kind is ast.ClassDef and scope is not scopes[-1]
            if not hidden and name in scope.meanings and name not in scope.outer:
                return scope.meanings[name]
        return self.module.meaning(name)

    def _bind(self, name: str | None, scopes: _Scopes, meaning: Meaning | None = None) -> None:
        if name is not None and scopes:
            scopes[-1].meanings[name] = meaning

    def _binding(self, node: Any, scopes: _Scopes) -> None:
        """What binds a name that is none of its nodes."""
        self._bind(node.rest if isinstance(node, ast.MatchMapping) else node.name, scopes)
        self._fields(node, scopes)

    def _import(self, node: ast.Import | ast.ImportFrom, scopes: _Scopes) -> None:
        """Write nothing: what it binds is written with its origin."""
        for name, meaning in self.module.bindings(node).items():
            self._bind(name, scopes, meaning)

    def _outer(self, node: ast.Global | ast.Nonlocal, scopes: _Scopes) -> None:
        scopes[-1].outer.update(node.names)
        if isinstance(node, ast.Nonlocal):  # a global name is written as what it means
            self.parts.append(f"Nonlocal({','.join(node.names)})")

    def _walrus(self, node: ast.NamedExpr, scopes: _Scopes) -> None:
        """Bind in the function around comprehensions."""
        around = [scope for scope in scopes if scope.kind not in _COMPREHENSIONS]
        self._bind(node.target.id, tuple(around))
        self._fields(node, scopes)

    def _constant(self, node: ast.Constant, scopes: _Scopes) -> None:
        if isinstance(node.value, str):
            self.strings.add(node.value)
            named = _DOTTED.fullmatch(node.value)
            if named and named[1] in self.module.package:
                path = (named[2],) if named[2] else ()
                self._named.append((len(self.parts), Reference(named[1], path)))
                self.parts.append("<>")
                return
        self.parts.append(f"={node.value!r}")

    def _arg(self, node: ast.arg, scopes: _Scopes) -> None:
        self._bind(node.arg, scopes)
        self.parts.append(node.arg)

    def _annotated(self, node: ast.AnnAssign, scopes: _Scopes) -> None:
        if scopes and scopes[-1].kind is ast.ClassDef:
            self._fields(node, scopes)
        elif node.value is not None:
            self.node(ast.Assign([node.target], node.value), scopes)
        else:
            self.node(node.target, scopes)

    def _raise(self, node: ast.Raise, scopes: _Scopes) -> None:
        """Without what the error says."""
        self.parts.append("Raise(")
        if isinstance(node.exc, ast.Call):
            said = (ast.JoinedStr, ast.Constant)
            kept = [each for each in node.exc.args if not isinstance(each, said)]
            self.node(node.exc.func, scopes)
            self.node([*kept, *node.exc.keywords], scopes)
        elif node.exc is not None:
            self.node(node.exc, scopes)
        self.parts.append(")")

    def _call(self, node: ast.Call, scopes: _Scopes) -> None:
        keywords = node.keywords
        if isinstance(node.func, ast.Name) and self.module.meaning(node.func.id) == _DESCRIBED:
            keywords = [each for each in keywords if each.arg != "description"]
        self.node(node.func, scopes)
        self.node(node.args, scopes)
        self.node(keywords, scopes)

    def _named_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, scopes: _Scopes
    ) -> None:
        self._bind(node.name, scopes)
        self.parts.append(node.name)
        self._function(node, scopes)

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scopes: _Scopes
    ) -> None:
        self.parts.append(f"{type(node).__name__}(")
        if not isinstance(node, ast.Lambda):
            self.node(node.decorator_list, scopes)
        args, inner = node.args, (*scopes, _Scope(type(node)))
        self.node([*args.defaults, *(each or ast.Pass() for each in args.kw_defaults)], scopes)
        for each in (args.posonlyargs, args.args, args.vararg, args.kwonlyargs, args.kwarg):
            self.node(each, inner)
        self.node(node.body, inner)
        self.parts.append(")")

    def _comprehension(self, node: ast.AST, scopes: _Scopes) -> None:
        self._fields(node, (*scopes, _Scope(type(node))))

    def _class(self, node: ast.ClassDef, scopes: _Scopes) -> None:
        self._bind(node.name, scopes)
        self.parts.append(f"class {node.name}(")
        self.node([*node.decorator_list, *node.bases, *node.keywords], scopes)
        self.node(node.body, (*scopes, _Scope(ast.ClassDef)))
        self.parts.append(")")


_WRITES: dict[type[ast.AST], Callable[[_Writer, Any, _Scopes], None]] = {
    ast.Name: _Writer._name,
    ast.Attribute: _Writer._attribute,
    ast.Constant: _Writer._constant,
    ast.Call: _Writer._call,
    ast.Import: _Writer._import,
    ast.ImportFrom: _Writer._import,
    ast.Global: _Writer._outer,
    ast.Nonlocal: _Writer._outer,
    ast.NamedExpr: _Writer._walrus,
    ast.arg: _Writer._arg,
    ast.AnnAssign: _Writer._annotated,
    ast.Raise: _Writer._raise,
    ast.FunctionDef: _Writer._named_function,
    ast.AsyncFunctionDef: _Writer._named_function,
    ast.Lambda: _Writer._function,
    ast.ClassDef: _Writer._class,
    **dict.fromkeys(
        (ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping), _Writer._binding
    ),
    **dict.fromkeys(_COMPREHENSIONS, _Writer._comprehension),
}
