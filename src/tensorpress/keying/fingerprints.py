"""Fingerprints of code: digests of what an entry reaches, so that no name of a module counts.

A Merkle tree of definitions (``definitions.py``): the digest of one is made of its text
(``codetext.py``) and of the digests of what it refers to, in that order. So a definition may move
to another module, and a module may be renamed, without any fingerprint changing; a definition that
nothing reaches counts for nothing. Definitions that refer to each other in a circle are digested
together. Where a name cannot be followed, all of its module counts; statements of a module that do
more than to define a name count where anything of it does. A string that names a module is
followed too; what is found by a name that params give (a method, a task, a family) is an entry of
its own (``identities.py``). Torch-free.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tensorpress.keying.codetext import Reference
from tensorpress.keying.definitions import Module

PACKAGE = Path(__file__).parents[1]

_WHOLE = "*"


class _Node(NamedTuple):
    """A definition; an empty name stands for a module's loose statements, ``*`` for all of it."""

    module: str
    name: str


@dataclass(frozen=True)
class _Edge:
    """To a node, or to something from outside of the package; ``rest``: attributes of it."""

    to: _Node | None
    rest: str = ""


def code_fingerprint(*entries: str) -> str:
    """Hash of all that ``entries`` reach: modules, or single definitions as ``module:name``.

    Raises ``KeyError`` for an entry that there is not.
    """
    return package(PACKAGE).fingerprint(*entries)


def all_modules(parent: str) -> list[str]:
    """Every module of a sub-package."""
    names = package(PACKAGE).files
    return sorted(name for name in names if name.rpartition(".")[0] == parent)


@cache
def package(folder: Path) -> Package:
    """The package in a folder; a process reads its code once."""
    files: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        files[".".join(["tensorpress", *(part for part in parts if part != "__init__")])] = path
    return Package(files)


@dataclass
class Package:
    """Modules by name, and the digests of their definitions as far as they were asked for."""

    files: Mapping[str, Path]
    _names: frozenset[str] = field(init=False)
    _modules: dict[str, Module] = field(default_factory=dict)
    _texts: dict[_Node, tuple[str, Sequence[_Edge]]] = field(default_factory=dict)
    _digests: dict[_Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # folders too, which need no __init__.py
        parts = (name.split(".") for name in self.files)
        above = (".".join(each[:end]) for each in parts for end in range(1, len(each) + 1))
        self._names = frozenset(above)

    def fingerprint(self, *entries: str) -> str:
        """Hash of all that entries reach, in whatever order they are given."""
        with _without_garbage():
            nodes = [self._entry(*entry.split(":")) for entry in entries]
            return _hash(*sorted(self._digest(node) for node in nodes))

    def reached(self, *entries: str) -> list[tuple[str, str]]:
        """The definitions that entries reach, as (module, name)."""
        found: dict[_Node, None] = {}
        todo = [self._entry(*entry.split(":")) for entry in entries]
        while todo:
            node = todo.pop()
            if node not in found:
                found[node] = None
                todo += self._reached_by(node)
        return sorted(found)

    def _entry(self, module: str, name: str = _WHOLE) -> _Node:
        if name != _WHOLE and name not in self._module(module).definitions:
            raise KeyError(f"{module}:{name}")
        return _Node(module, name)

    def _module(self, name: str) -> Module:
        if name not in self._modules:
            path = self.files.get(name)
            found = (
                Module.read(name, path, self._names) if path else Module(name, Path(), self._names)
            )
            self._modules[name] = found
        return self._modules[name]

    def _digest(self, node: _Node) -> str:
        if node not in self._digests:
            for circle in _circles(node, self._reached_by, self._digests):
                self._digests |= self._of_circle(circle)
        return self._digests[node]

    def _of_circle(self, nodes: Sequence[_Node]) -> dict[_Node, str]:
        """Digests of definitions that refer to each other, or of a single one.

        What a member is follows from what its neighbours are, so all are refined together, once for
        each of them; then those differ that anything tells apart.
        """
        colours = dict.fromkeys(nodes, "")
        for _ in nodes:
            known = self._digests | colours
            colours = {node: self._coloured(node, known) for node in nodes}
        whole = _hash(*sorted(colours.values()))
        return {node: _hash(colour, whole) for node, colour in colours.items()}

    def _coloured(self, node: _Node, known: Mapping[_Node, str]) -> str:
        text, edges = self._read(node)
        reached = [f"{known[edge.to] if edge.to else ''}.{edge.rest}" for edge in edges]
        return _hash(text, *(sorted(reached) if node.name == _WHOLE else reached))

    def _reached_by(self, node: _Node) -> Iterator[_Node]:
        return (edge.to for edge in self._read(node)[1] if edge.to is not None)

    def _read(self, node: _Node) -> tuple[str, Sequence[_Edge]]:
        if node not in self._texts:
            self._texts[node] = self._text_of(node)
        return self._texts[node]

    def _text_of(self, node: _Node) -> tuple[str, Sequence[_Edge]]:
        module = self._module(node.module)
        if module.is_unkeyed or module.is_marked(node.name):
            return f"unkeyed {node.name}", ()
        run = [_Edge(_Node(name, "")) for name in self._run_with(module) if name != node.module]
        if node.name == _WHOLE:
            own = [_Edge(_Node(node.module, name)) for name in ("", *module.definitions)]
            return _WHOLE, [*own, *run]
        found = module.text(node.name)
        if node.name:
            module.definitions[node.name] = []  # its text is kept, and a syntax tree is large
        if node.name and module.loose:
            run.append(_Edge(_Node(node.module, "")))
        return found.text, [*map(self._edge, found.references), *run]

    def _run_with(self, module: Module) -> Iterator[str]:
        """Packages around a module that do something when they are imported."""
        parts = module.name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        return (name for name in above if name in self.files and self._module(name).loose)

    def _edge(self, reference: Reference) -> _Edge:
        """Where a reference leads, through what modules import from each other."""
        module, path = reference
        while path:
            (name, *rest), source = path, self._module(module)
            meaning = source.imports.get(name)
            if name in source.definitions:
                return _Edge(_Node(module, name), ".".join(rest))
            if isinstance(meaning, str):
                return _Edge(None, ".".join([meaning, *rest]))
            if meaning is not None and meaning != (module, (name,)):
                module, path = meaning.module, (*meaning.path, *rest)
            elif f"{module}.{name}" in self._names:
                module, path = f"{module}.{name}", tuple(rest)
            else:  # made in a way that is not seen here: by loose statements, or all may make it
                is_loose = name in source.loose_names or name.startswith("__")
                return _Edge(_Node(module, "" if is_loose else _WHOLE), ".".join(path))
        return _Edge(_Node(module, _WHOLE))


def _circles(
    start: _Node,
    reached_by: Callable[[_Node], Iterator[_Node]],
    done: Container[_Node],
) -> Iterator[list[_Node]]:
    """Strongly connected components of what a node reaches, each after those that it reaches.

    Tarjan 1972, without recursion. What is ``done`` is not entered, and so must be what was given.
    """
    number = {start: 0}
    lowest = {start: 0}
    stack, path = [start], [(start, reached_by(start))]
    while path:
        node, following = path[-1]
        for other in following:
            if other in done:
                continue
            if other not in number:
                number[other] = lowest[other] = len(number)
                stack.append(other)
                path.append((other, reached_by(other)))
                break
            lowest[node] = min(lowest[node], number[other])
        else:
            path.pop()
            if path:
                lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
            if lowest[node] == number[node]:
                first = stack.index(node)
                yield stack[first:]
                del stack[first:]


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Syntax trees are many objects and no garbage; to look for it took half of the time."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()
