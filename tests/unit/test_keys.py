"""Keys: stable where nothing that counts changed, different where it did."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tensorpress import keys

CODE = '"""Doc."""\nfrom tensorpress.b import f\n\ndef g(x):\n    """Doc."""\n    return f(x) + 1\n'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "params.py").write_text("A = 1\n")
    monkeypatch.setattr(keys, "PACKAGE", tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """A process reads the code once."""
    keys._digest.cache_clear()
    keys.code_fingerprint.cache_clear()


def fingerprint() -> str:
    forget()
    return keys.code_fingerprint("tensorpress.a")


def test_key_does_not_depend_on_order() -> None:
    assert keys.key(a=1, b=[1, 2]) == keys.key(b=[1, 2], a=1)
    assert keys.key(a=1) != keys.key(a=2)
    assert len(keys.key(a=1)) == 10


@pytest.mark.parametrize(
    "text",
    [
        "# comment\n" + CODE,
        CODE.replace('"""Doc."""', '"""Another."""'),
        CODE.replace("f(x) + 1", "(f(x)\n            + 1)"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(package: Path, text: str) -> None:
    before = fingerprint()
    (package / "a.py").write_text(text)
    assert fingerprint() == before


def test_code_and_imported_code_count(package: Path) -> None:
    before = fingerprint()
    (package / "b.py").write_text("def f(x):\n    return x + 0\n")
    after = fingerprint()
    assert after != before
    (package / "a.py").write_text(CODE.replace("+ 1", "+ 2"))
    assert fingerprint() not in (before, after)


def test_imports_inside_functions_count(package: Path) -> None:
    (package / "a.py").write_text("def g(x):\n    from tensorpress.b import f\n    return f(x)\n")
    before = fingerprint()
    (package / "b.py").write_text("def f(x):\n    return 2 * x\n")
    assert fingerprint() != before


def test_plumbing_does_not_count(package: Path) -> None:
    (package / "a.py").write_text("from tensorpress import params\n" + CODE)
    before = fingerprint()
    (package / "params.py").write_text("A = 2\n")
    assert fingerprint() == before


def test_data_files_count(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "data.txt").write_text("1")
    monkeypatch.setattr(keys, "DATA_FILES", {"tensorpress.b": ("data.txt",)})
    before = fingerprint()
    (package / "data.txt").write_text("2")
    assert fingerprint() != before


def test_canonical_text_ignores_empty_fields_of_newer_pythons() -> None:
    import ast

    tree = ast.parse("def f(x):\n    return x\n")
    before = keys._canonical(tree)
    tree.body[0].type_params = []  # what Python 3.12 adds
    assert keys._canonical(tree) == before


def test_real_closure_reaches_kernels_but_not_plumbing() -> None:
    forget()
    everything = keys.code_fingerprint("tensorpress.decomposition", "tensorpress.methods.tt")
    assert everything != keys.code_fingerprint(
        "tensorpress.decomposition", "tensorpress.methods.svd"
    )


def test_file_fingerprint_sees_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    shutil.copy(tmp_path / "x", tmp_path / "y")
    assert keys.file_fingerprint(tmp_path / "x") == keys.file_fingerprint(tmp_path / "y")
    (tmp_path / "y").write_text("2")
    assert keys.file_fingerprint(tmp_path / "x") != keys.file_fingerprint(tmp_path / "y")
