"""Every registry has one form: a line for each file, named alike; what it lists is documented."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module

import pytest
from support.workspace import ROOT

from tensorpress.architectures.families.table import FAMILIES
from tensorpress.config.reports import NOTEBOOKS
from tensorpress.config.tasks.registry import TASKS
from tensorpress.methods.registry import METHODS
from tensorpress.objectives.registry import OBJECTIVES
from tensorpress.transforms.registry import TRANSFORMS

FAMILY = "tensorpress.architectures.families"
REGISTRIES = {
    "methods": (METHODS, "tensorpress.methods", ["Spec", "EXAMPLE", "decompose"]),
    "tasks": (TASKS, "tensorpress.config.tasks", ["Spec"]),
    "transforms": (TRANSFORMS, "tensorpress.transforms", ["Spec"]),
    "objectives": (OBJECTIVES, "tensorpress.objectives", ["OBJECTIVE"]),
    "families": ({name: f"{FAMILY}.{name}" for name in FAMILIES}, FAMILY, ["FAMILY"]),
}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_file_has_its_line(registry: str) -> None:
    table, package, constants = REGISTRIES[registry]
    names = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    files = {name: import_module(f"{package}.{name}") for name in names}
    made = {name for name, file in files.items() if constants[0] in vars(file)}
    assert table == {name: f"{package}.{name}" for name in table}
    assert set(table) == made
    assert all(constant in vars(files[name]) for name in table for constant in constants)


def test_every_task_s_work_has_its_name() -> None:
    entries = {kind: import_module(module).Spec.entry for kind, module in TASKS.items()}
    assert entries == {kind: f"tensorpress.evaluation.tasks.{kind}" for kind in TASKS}


def test_every_notebook_has_its_line() -> None:
    assert set(NOTEBOOKS) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {each.kind for each in NOTEBOOKS.values()} <= set(TASKS)


@pytest.mark.parametrize("name", [*METHODS, *TASKS])
def test_methods_and_tasks_have_a_row(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", _params_page(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", [*NOTEBOOKS, *TRANSFORMS])
def test_notebooks_and_transforms_are_named(name: str) -> None:
    assert f"`{name}`" in _params_page() or f": {name}`" in _params_page()


def _params_page() -> str:
    return (ROOT / "docs/params.md").read_text(encoding="utf-8")
