"""Fingerprints of small packages: what counts, and what does not."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tensorpress.keying.codetext import text_of
from tensorpress.keying.definitions import Module
from tensorpress.keying.fingerprints import package

MAIN = '''"""Doc."""
from pydantic import Field
from tensorpress.kernel import f

LIMIT = Field(3, description="a limit")
"""Doc."""

def g(x: int) -> int:
    """Doc."""
    y: int = f(x)
    if y > LIMIT:
        raise ValueError(f"{y} is too large")
    return y + 1

def unused(x):
    return 0
'''
KERNEL = "def f(x):\n    return h(x) + 1\n\ndef h(x):\n    return x\n"
Fingerprint = Callable[..., str]


@pytest.fixture
def fingerprint(tmp_path: Path) -> Fingerprint:
    """Of ``main:g`` in a package of these files, by their paths; those with ``.`` are data."""
    made: list[Path] = []

    def of(entry: str = "tensorpress.main:g", **files: str) -> str:
        folder = tmp_path / str(len(made))
        made.append(folder)
        for name, text in {"__init__": "", "main": MAIN, "kernel": KERNEL, **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path if "." in name else path.with_suffix(".py")).write_text(text)
        return package(folder).fingerprint(entry)

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""', '"""Another."""'),
        ("def g", "# why\ndef g"),
        ("y + 1", "(y\n            + 1)"),
        ("x: int) -> int", "x: float) -> Any"),
        ("y: int = ", "y = "),
        ("is too large", "is larger than allowed"),
        ("a limit", "the limit"),
        ("return 0", "return 1"),
    ],
)
def test_what_computes_nothing_does_not_count(fingerprint: Fingerprint, old: str, new: str) -> None:
    assert old in MAIN
    assert fingerprint(main=MAIN.replace(old, new)) == fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [("y + 1", "y + 2"), ("Field(3", "Field(4"), ("y > LIMIT", "y >= LIMIT"), ("x: int", "z: int")],
)
def test_what_computes_counts(fingerprint: Fingerprint, old: str, new: str) -> None:
    assert old in MAIN
    assert fingerprint(main=MAIN.replace(old, new)) != fingerprint()


def test_what_is_called_counts_at_any_distance(fingerprint: Fingerprint) -> None:
    assert fingerprint(kernel=KERNEL.replace("return x", "return 2 * x")) != fingerprint()
    assert fingerprint(kernel=KERNEL + "def other(x):\n    return 3\n") == fingerprint()


@pytest.mark.parametrize(
    ("use", "call"),
    [
        ("from tensorpress.kernel import f", "f(x)"),
        ("from tensorpress.kernel import f as k", "k(x)"),
        ("from tensorpress import kernel", "kernel.f(x)"),
        ("import tensorpress.kernel", "tensorpress.kernel.f(x)"),
        ("import tensorpress.kernel as k", "k.f(x)"),
        ("from .kernel import f", "f(x)"),
        ("from . import kernel", "kernel.f(x)"),
    ],
)
def test_ways_to_import_are_one(fingerprint: Fingerprint, use: str, call: str) -> None:
    wanted = fingerprint(main="from tensorpress.kernel import f\ndef g(x):\n    return f(x)\n")
    for main in (
        f"{use}\ndef g(x):\n    return {call}\n",
        f"def g(x):\n    {use}\n    return {call}\n",
    ):
        assert fingerprint(main=main) == wanted
        assert fingerprint(main=main, kernel=KERNEL.replace("+ 1", "+ 2")) != wanted


def test_a_move_or_a_rename_does_not_count(fingerprint: Fingerprint) -> None:
    moved = {"kernel": "from tensorpress.sub.deep import f\n", "sub/deep": KERNEL}
    assert fingerprint(**moved) == fingerprint()
    parted = {
        "kernel": "from tensorpress.other import h\ndef f(x):\n    return h(x) + 1\n",
        "other": "def h(x):\n    return x\n",
    }
    assert fingerprint(**parted) == fingerprint()
    assert fingerprint(kernel=KERNEL.replace("h(", "renamed(")) == fingerprint()
    assert fingerprint("tensorpress.renamed:g", renamed=MAIN) == fingerprint()


def test_folders_need_no_init(fingerprint: Fingerprint) -> None:
    main = "from tensorpress.sub import deep\ndef g(x):\n    return deep.f(x)\n"
    edited = KERNEL.replace("+ 1", "+ 2")
    before = fingerprint(**{"main": main, "sub/deep": KERNEL})
    assert fingerprint(**{"main": main, "sub/deep": edited}) != before


def test_which_of_two_functions_is_called_counts(fingerprint: Fingerprint) -> None:
    """Although their texts are the same."""
    text = (
        "def a(x):\n    return x\ndef b(x):\n    return -x\n"
        "def left(x):\n    return a(x)\ndef right(x):\n    return b(x)\n"
        "def g(x):\n    return left(x) + 2 * right(x)\n"
    )
    swapped = text.replace("left(x) + 2 * right(x)", "right(x) + 2 * left(x)")
    assert fingerprint(main=text) != fingerprint(main=swapped)


def test_circles(fingerprint: Fingerprint) -> None:
    main = "from tensorpress.kernel import f\ndef g(x):\n    return f(x - 1) if x else 0\n"
    kernel = "def f(x):\n    from tensorpress.main import g\n    return g(x) + 1\n"
    before = fingerprint(main=main, kernel=kernel)
    assert fingerprint(main=main, kernel=kernel.replace("+ 1", "+ 2")) != before
    assert fingerprint(main=main.replace("x - 1", "x - 2"), kernel=kernel) != before
    one = main.replace("from tensorpress.kernel import f\n", "") + kernel
    assert fingerprint(main=one.replace("    from tensorpress.main import g\n", "")) == before
    assert fingerprint("tensorpress.kernel:f", main=main, kernel=kernel) != before


def test_variables_are_no_references(fingerprint: Fingerprint) -> None:
    reads = "from tensorpress.kernel import f, h\ndef g(f):\n    return [h for h in f]\n"
    edited = KERNEL.replace("return x", "return 2 * x").replace("+ 1", "+ 2")
    assert fingerprint(main=reads) == fingerprint(main=reads, kernel=edited)
    later = "from tensorpress.kernel import f\ndef g(x):\n    y = f\n    f = 1\n    return y\n"
    assert fingerprint(main=later) == fingerprint(main=later, kernel=edited)


def test_methods_do_not_see_names_of_their_class(fingerprint: Fingerprint) -> None:
    text = (
        "from tensorpress.kernel import f\n"
        "class A:\n    f = 1\n    kept = f\n    def m(self):\n        return {}\n"
        "def g():\n    return A\n"
    )
    edited = KERNEL.replace("+ 1", "+ 2")
    uses, none = text.format("f(self)"), text.format("self")
    assert fingerprint(main=uses) != fingerprint(main=uses, kernel=edited)
    assert fingerprint(main=none) == fingerprint(main=none, kernel=edited)


def test_fields_of_classes_count_with_their_types(fingerprint: Fingerprint) -> None:
    text = "from tensorpress.kernel import K\nclass A:\n    k: K\ndef g():\n    return A()\n"
    assert fingerprint(main=text, kernel="class K:\n    a: int\n") != fingerprint(
        main=text, kernel="class K:\n    a: float\n"
    )


@pytest.mark.parametrize(
    "main",
    [
        "from tensorpress import kernel\ndef g(x):\n    return run(kernel)\n",
        "from tensorpress import kernel\ndef g(x):\n    return kernel.made_at_run_time\n",
        'def g(x):\n    return find("tensorpress.kernel")\n',
    ],
)
def test_what_cannot_be_followed_is_a_whole_module(fingerprint: Fingerprint, main: str) -> None:
    other = KERNEL + "def other(x):\n    return 3\n"
    assert fingerprint(main=main, kernel=other) != fingerprint(main=main)
    moved = {"main": main.replace("kernel", "renamed"), "renamed": KERNEL}
    assert fingerprint(**moved) == fingerprint(main=main)


def test_a_string_may_name_one_definition(fingerprint: Fingerprint) -> None:
    main = 'def g(x):\n    return find("tensorpress.kernel:h")\n'
    assert fingerprint(main=main, kernel=KERNEL.replace("+ 1", "+ 2")) == fingerprint(main=main)
    edited = KERNEL.replace("return x", "return 2 * x")
    assert fingerprint(main=main, kernel=edited) != fingerprint(main=main)


def test_loose_statements_count_with_whatever_is_used(fingerprint: Fingerprint) -> None:
    loose = KERNEL + "for each in (f, h):\n    register(each)\n"
    before = fingerprint(kernel=loose)
    assert before != fingerprint()
    assert fingerprint(kernel=loose.replace("(f, h)", "(h, f)")) != before
    around = {"sub/__init__": "start()\n", "sub/deep": KERNEL}
    moved = MAIN.replace("tensorpress.kernel", "tensorpress.sub.deep")
    assert fingerprint(main=moved, **around) != fingerprint()


def test_what_is_marked_does_not_count(fingerprint: Fingerprint) -> None:
    mark = "from tensorpress.keying.keys import unkeyed\n"
    marked = mark + KERNEL.replace("def h", "@unkeyed\ndef h")
    before = fingerprint(kernel=marked)
    assert fingerprint(kernel=marked.replace("return x", "return 2 * x")) == before
    assert fingerprint(kernel=marked.replace("+ 1", "+ 2")) != before
    module = KERNEL + 'UNKEYED = "why"\n'
    assert fingerprint(kernel=module.replace("+ 1", "+ 2")) == fingerprint(kernel=module)
    method = (
        "class A:\n    def m(self):\n        return 1\n{}    def cost(self):\n        return 2\n"
    )
    main = mark + method.format("    @unkeyed\n") + "def g():\n    return A()\n"
    assert fingerprint(main=main) == fingerprint(main=main.replace("return 2", "return 3"))
    assert fingerprint(main=main) != fingerprint(main=main.replace("return 1", "return 3"))


def test_data_beside_a_module_counts(fingerprint: Fingerprint) -> None:
    main = (
        'from pathlib import Path\nD = Path(__file__).with_name("d.txt")\ndef g():\n    return D\n'
    )
    files = {"main": main, "d.txt": "1"}
    assert fingerprint(**files) != fingerprint(**{**files, "d.txt": "2"})


def test_what_others_are_imported_counts(fingerprint: Fingerprint) -> None:
    main = "from math import {} as r\ndef g(x):\n    return r(x)\n"
    before = fingerprint(main=main.format("floor"))
    assert fingerprint(main=main.format("ceil")) != before
    assert fingerprint(main="import math as m\ndef g(x):\n    return m.floor(x)\n") == before


def test_an_entry_that_there_is_not(fingerprint: Fingerprint) -> None:
    with pytest.raises(KeyError, match="main:nothing"):
        fingerprint("tensorpress.main:nothing")


def test_the_text_ignores_empty_fields_of_newer_pythons(tmp_path: Path) -> None:
    module = Module("tensorpress.main", tmp_path / "main.py", frozenset())
    tree = ast.parse("class A:\n    def f(x):\n        return x\n")
    before = text_of(tree.body, module)
    tree.body[0].type_params = []  # what Python 3.12 adds
    assert text_of(tree.body, module) == before


def test_names_of_one_assignment_have_their_own_values(fingerprint: Fingerprint) -> None:
    pair = "A, B = 1, 2\ndef g(x):\n    return A - B\n"
    assert fingerprint(main=pair) != fingerprint(main=pair.replace("A - B", "B - A"))
    assert fingerprint(main=pair) == fingerprint(main=pair.replace("A, B = 1, 2", "A = 1\nB = 2"))


def test_what_runs_beside_types_counts(fingerprint: Fingerprint) -> None:
    top = "if TYPE_CHECKING:\n    K = int\nelse:\n    K = 1\ndef g(x):\n    return x + K\n"
    inside = (
        "def g(x):\n    if TYPE_CHECKING:\n        pass\n    else:\n        x = 1\n    return x\n"
    )
    for main in (top, inside):
        assert fingerprint(main=main) != fingerprint(main=main.replace("= 1", "= 2"))
    assert fingerprint(main=top) == fingerprint(main=top.replace("int", "str"))


def test_a_name_of_the_function_around_is_told_apart(fingerprint: Fingerprint) -> None:
    main = "def g(x):\n    def h():\n        nonlocal x\n        x = 1\n    h()\n    return x\n"
    assert fingerprint(main=main) != fingerprint(main=main.replace("        nonlocal x\n", ""))
