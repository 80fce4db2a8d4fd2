"""``tensorpress doctor``: what there is beside what is needed, and its exit status."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from support.workspace import ROOT

from tensorpress.commands import doctor
from tensorpress.commands.cli import main


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the package requires, in place of what an installed one says."""
    required = ["torch>=2", "pydantic>=1", "nowhere>=3; extra == 'test'"]
    monkeypatch.setattr(metadata, "metadata", lambda _: {"Requires-Python": ">=3.11"})
    monkeypatch.setattr(metadata, "requires", lambda _: required)
    monkeypatch.chdir(ROOT)
    return required


def said(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, dict]:
    assert main(["doctor", "--json"]) == status
    return {each["what"]: each for each in json.loads(capsys.readouterr().out)}


def test_a_machine_that_will_do(known: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, 0)
    assert found["packages"] == {"what": "packages", "found": "2 of 2", "needed": "", "fits": True}
    assert found["memory"]["fits"] is found["disk"]["fits"] is found["python"]["fits"] is True
    needed = float(re.match(r"[\d.]+", found["memory"]["needed"]).group())
    assert 0.1 < needed < psutil.virtual_memory().total / 1e9
    assert re.fullmatch(r"(bfloat16|float32): .+", found["compute.dtype: auto"]["found"])


def test_what_is_missing_is_named(
    known: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known += ["nowhere>=3", "torch>=99"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**6))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "NOT ENOUGH" in shown.out
    assert shown.err == "tensorpress: doctor: not enough: nowhere, torch, memory, disk; see above\n"


def test_params_that_are_wrong_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("storage: {dtyp: x}\n")
    assert main(["--params", str(tmp_path / "params.yaml"), "doctor"]) == 1
    assert "storage.dtyp: unknown key; allowed: dtype" in capsys.readouterr().err
