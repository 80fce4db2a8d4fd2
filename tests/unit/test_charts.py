"""Pictures whose marks name themselves: every run is drawn, with what leads to its page."""

from __future__ import annotations

from pathlib import Path

import altair
import pandas as pd
from support.stages import ask
from support.study import Study

from tensorpress.report import charts

TOLD = {"recipe", "of_layers", "bits_saved_percent", "loss"}


def marks(chart: altair.LayerChart) -> tuple[list[dict], set[str]]:
    """What the marks of the last layer are drawn from, and what pointing at them tells."""
    drawn = chart.to_dict()
    last = drawn["layer"][-1]
    data = last.get("data", drawn.get("data"))  # of the whole chart where its layers share it
    return drawn["datasets"][data["name"]], {t["field"] for t in last["encoding"]["tooltip"]}


def test_predicted_against_measured(whole: dict[str, Path]) -> None:
    rows = ask("prediction", whole)
    data, told = marks(charts.predicted(rows))
    assert [row["run"] for row in data] == list(rows["run"])
    assert told >= TOLD | {"kind", "predicted"}
    assert "1-2" in {row["of_layers"] for row in data}


def test_one_layer_at_a_time(whole: dict[str, Path]) -> None:
    rows = ask("layer_sensitivity", whole)
    data, told = marks(charts.of_layers(rows))
    assert [row["run"] for row in data] == list(rows["run"])
    assert told >= TOLD
    assert all(row["low_nats"] < row["nats_lost"] < row["high_nats"] for row in data)
    assert len({row["line"] for row in data}) == rows["recipe"].nunique()


def test_losses_far_apart_stand_on_a_logarithmic_axis() -> None:
    small, large = (
        charts.nats(altair.Y, "nats_lost", "loss", [-0.001, top]) for top in (0.04, 3.0)
    )
    assert small.to_dict()["scale"] == {"domain": [-0.001, 0.04]}
    assert large.to_dict()["scale"]["type"] == "symlog"
    assert large.to_dict()["scale"]["domain"] == [-0.001, 3.0]


def test_a_run_without_an_interval_is_told_so(tmp_path: Path) -> None:
    study = Study()
    study.baseline()
    study.run("tt", "tt", 8, 0.5, stderr=None, stderr_samples=None)
    rows = ask("frontier", study.written(tmp_path))
    (row,) = charts.told(rows).to_dict("records")
    assert row["loss"] == "0.500 nats per token (no interval)"
    assert pd.isna(row["low_nats"])
    assert row["of_layers"] == "1-2"
