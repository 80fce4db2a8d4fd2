"""The verdict over widths and training, from rows of studies that were never run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.stages import ask
from support.study import Study

from tensorpress.planning import identities
from tensorpress.report import generality
from tensorpress.sources.inputs import EmbeddedModel

TENSOR = {("a", 96, 1.0): 0.1, ("b", 192, 1.0): 0.2, ("c", 192, 0.5): 0.05, ("d", 192, 0.0): 0.02}
"""Model, width and share of training -> what its tensor format loses, nats."""


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    every = Study()
    for (model, width, progress), nats in TENSOR.items():
        study = Study(model)
        study.baseline()
        study.run("tt", "tt", 21, nats)
        study.run("svd_whitened", "svd-whitened", 21, 0.03)
        study.run("rtn4", "dense", 41, 0.01, rounding_bits=4)
        facts = {"trained_as": "dense", "hidden_size": width, "training_progress": progress}
        sizes = {"dense_bits": 16000, "value_bits": 16}
        every.results += [replace(row, **facts, **sizes) for row in study.results]
    every.model = "file"
    every.baseline()
    every.run("tt", "tt", 41, 0.3)
    every.run("rtn4", "dense", 41, 0.0, rounding_bits=4)
    return ask("generality", every.written(tmp_path))


def test_what_a_tensor_format_is_behind_at_equal_bits(rows: pd.DataFrame) -> None:
    assert set(rows["budget_percent"]) == {10, 20, 40}
    at = rows.set_index(["model", "budget_percent"])
    for (model, *_), nats in TENSOR.items():
        row = at.loc[model, 20]
        assert row["behind_nats"] == pytest.approx(nats - 0.01)
        assert row["behind_svd_nats"] == pytest.approx(nats - 0.03)
        assert (row["alternative_recipe"], row["parameters"]) == ("rtn4", 1000)
        assert pd.isna(at.loc[model, 40]["behind_nats"])
    assert at.loc["file", 40]["behind_nats"] == pytest.approx(0.3)
    assert pd.isna(at.loc["file", 20]["behind_svd_nats"])


def test_models_are_put_in_order_of_width_and_of_training(rows: pd.DataFrame) -> None:
    widths, training = generality.series(rows)
    assert list(dict.fromkeys(widths.rows["model"])) == ["a", "b"]
    assert list(dict.fromkeys(training.rows["model"])) == ["d", "c", "b"]
    told: dict[str, Any] = {
        words.split("</b>")[0]: words for words in generality.trends([training])
    }
    words = told["<b>dense, width 192, 20 % of bits saved"]
    assert "by share of training: 0% 0.010 ± " in words
    assert words.index("50% 0.040 ± ") < words.index("100% 0.190 ± ")
    whole = generality.verdict(rows)
    # two models at two budgets and a third at three
    assert whole.startswith("Of 7 comparisons, 3 models at up to 3 budgets, the best tensor format")
    assert "wins in 0, loses in 7" in whole


def test_a_picture_of_every_series(rows: pd.DataFrame) -> None:
    figure = generality.picture(rows, generality.series(rows))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["trained models", "dense, trained", "dense, width 192"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["a", "b", "file"]


def test_what_is_said_of_a_whole_training_changes_no_key() -> None:
    def key(**settings: Any) -> str:
        spec = EmbeddedModel(source="embedded", name="dense", **settings)
        return identities.model("dense", spec, "bfloat16").key

    assert key() == key(width=192) == key(progress=1)
    assert len({key(), key(width=96), key(progress=0.5), key(progress=0)}) == 4
