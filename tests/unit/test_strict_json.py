"""What is no number is null, as JSON has it, wherever it stands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from support.study import Study

from tensorpress.commands import cli
from tensorpress.files import paths
from tensorpress.files.strict_json import strict_json


class Found(BaseModel):
    value: float
    many: tuple[float, ...]
    settings: dict[str, Any]


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def read(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_has_not_are_null() -> None:
    records = [{"b": math.nan, "a": [math.inf, -math.inf, 1e300, 0.1]}]
    assert read(strict_json(records)) == [{"b": None, "a": [None, None, 1e300, 0.1]}]
    assert list(read(strict_json(records, sort_keys=True))[0]) == ["a", "b"]
    found = Found(value=math.nan, many=(math.inf, 2.0), settings={"x": math.nan})
    assert read(strict_json(found)) == {
        "value": None, "many": [None, 2.0], "settings": {"x": None},
    }  # fmt: skip


def test_a_correlation_of_one_run_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study()
    study.baseline()
    study.run("svd", "svd", 10, 0.1)
    study.add("predicted_damage", 0.1, kind="prediction", task="p", recipe="svd", layer=None)
    tables = study.written(tmp_path)
    for name, file in tables.items():
        monkeypatch.setattr(paths, f"{name}_table", lambda _, file=file: file)
    monkeypatch.setattr(cli, "_plan", lambda options: SimpleNamespace(table_id=""))
    assert cli.main(["query", "prediction", "--json"]) == 0
    (row,) = read(capsys.readouterr().out)
    assert row["spearman"] is None
    assert row["predicted_nats"] == 0.1
