"""What holds for all tests."""

from __future__ import annotations

import re

import pytest
import torch
from jaxtyping import TypeCheckError
from support.workspace import ROOT

from tensorpress.linalg.gram import leading_right


def test_shapes_in_signatures_are_checked() -> None:
    with pytest.raises(TypeCheckError, match=r"matrix: Float\[Tensor, '\*batch m n'\]"):
        leading_right(torch.randn(3), 1)


def test_no_test_file_imports_another() -> None:
    files = {
        file.relative_to(ROOT): file.read_text(encoding="utf-8")
        for file in ROOT.glob("tests/**/*.py")
    }
    assert files
    found = {
        file: re.findall(r"^\s*(?:from|import) test_\w+", text, re.M)
        for file, text in files.items()
    }
    assert not {file: lines for file, lines in found.items() if lines}
