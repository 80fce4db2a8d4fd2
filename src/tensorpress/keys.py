"""Artifact keys: the one truth about staleness that Snakemake and DVC share.

A key is the first 10 hex digits of SHA-256 over canonical JSON of the stage's settings with
defaults filled in, the fingerprint of the code its numbers depend on, and the keys upstream.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent

PLUMBING = frozenset(
    {
        "tensorpress.artifacts",
        "tensorpress.atomic",
        "tensorpress.checks",
        "tensorpress.cli",
        "tensorpress.confinement",
        "tensorpress.custom_code",
        "tensorpress.errors",
        "tensorpress.evaluation.specs",
        "tensorpress.families.table",
        "tensorpress.footprint",
        "tensorpress.forkserver",
        "tensorpress.formats.table",
        "tensorpress.guards",
        "tensorpress.hub_datasets",
        "tensorpress.hub_models",
        "tensorpress.identities",
        "tensorpress.inputs",
        "tensorpress.job",
        "tensorpress.keys",
        "tensorpress.methods.cost",
        "tensorpress.nesting",
        "tensorpress.objectives.registry",
        "tensorpress.oom",
        "tensorpress.params",
        "tensorpress.paths",
        "tensorpress.placement",
        "tensorpress.plan",
        "tensorpress.records",
        "tensorpress.refusals",
        "tensorpress.registry",
        "tensorpress.secrets",
        "tensorpress.slots",
        "tensorpress.staging",
        "tensorpress.sources",
        "tensorpress.status",
        "tensorpress.stopwatch",
        "tensorpress.tensorfile",
        "tensorpress.tracking",
        "tensorpress.transforms.registry",
        "tensorpress.weightfiles",
        "tensorpress.yamlfile",
    }
)
"""Modules that move numbers but do not make them: a change here makes nothing stale.

Settings and sources are part of a key by their values.
"""

DATA_FILES = {"tensorpress.embedded.corpus": ("embedded/paragraph_hashes.txt",)}
"""Data that a module's numbers depend on beside its code, relative to the package."""


def key(**what: Any) -> str:
    """Ten hex digits that identify ``what`` (JSON values) whatever the order of its fields."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@cache
def code_fingerprint(*entries: str) -> str:
    """Hash of the syntax trees of the modules reached by import from ``entries``.

    Comments, docstrings and formatting do not count; neither do plumbing modules.
    """
    reached: dict[str, str] = {}
    todo = list(entries)
    while todo:
        module = todo.pop()
        if module in reached or module in PLUMBING:
            continue
        reached[module], imported = _digest(module)
        todo += imported
    return hashlib.sha256(json.dumps(sorted(reached.items())).encode()).hexdigest()


def file_fingerprint(*files: Path) -> str:
    """SHA-256 over the contents of ``files``, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def all_modules(package: str) -> list[str]:
    """Every module of a sub-package."""
    folder = PACKAGE.joinpath(*package.split(".")[1:])
    return sorted(f"{package}.{p.stem}" for p in folder.glob("*.py") if p.stem != "__init__")


def module_file(module: str) -> Path | None:
    """The file of a module of this package, ``None`` if there is no such module."""
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _digest(module: str) -> tuple[str, tuple[str, ...]]:
    path = module_file(module)
    assert path is not None, module
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_package = path.name == "__init__.py"
    imported = tuple(sorted(_imports(tree, module, is_package)))
    _drop_docstrings(tree)
    data = file_fingerprint(*(PACKAGE / name for name in DATA_FILES.get(module, ())))
    return hashlib.sha256((_canonical(tree) + data).encode()).hexdigest(), imported


def _canonical(node: Any) -> str:
    """Text of a syntax tree that is the same under every Python: empty fields are left out.

    ``ast.dump`` will not do: later versions add fields and change which empty ones it prints.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        body = ",".join(f"{name}={_canonical(value)}" for name, value in fields)
        return f"{type(node).__name__}({body})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node)}]"
    return repr(node)


def _imports(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(n for n in names if n.split(".")[0] == "tensorpress" and module_file(n))
    return found - {"tensorpress"}


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    base = parents[: len(parents) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # a bare string statement never changes a number, wherever it stands
            node.body = [
                statement
                for statement in node.body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
