"""What a study is thought to take: seconds, memory and bytes on disk, by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.untrusted import update
from support.workspace import tiny_params

from tensorpress.commands import forecast
from tensorpress.commands.cli import main
from tensorpress.config.params import parse
from tensorpress.planning.foresight import (
    BACKWARD,
    ITEM,
    JOB,
    Machine,
    disk,
    evaluation_seconds,
    foreseen,
    peaks,
)
from tensorpress.planning.plan import Plan

SLOW = Machine(macs_per_second=1e9, workers=1)


def planned(**recipe: Any) -> Plan:
    params = tiny_params()
    Path("inputs/other.txt").write_text("It rained on the hills all day long. " * 50)
    params["corpora"]["other"] = {"source": "file", "path": "inputs/other.txt"}
    params["recipes"]["svd"] |= recipe
    return Plan(parse(params))


@pytest.mark.usefixtures("inputs")
def test_adapters_take_their_passes() -> None:
    lora = {
        "train": "adapters",
        "corpus": "other",
        "rank": 2,
        "steps": 3,
        "accumulation": 2,
        "batch": 4,
        "window": 32,
    }
    more = planned(recover={**lora, "steps": 5})
    once = evaluation_seconds(next(iter(more.fetched.values())).architecture, 32, SLOW)
    runs = len(more.recoveries)
    assert runs
    difference = foreseen(more, SLOW)["recover"] - foreseen(planned(recover=lora), SLOW)["recover"]
    assert difference == pytest.approx(runs * 2 * 2 * 4 * BACKWARD * once)
    assert "recover" not in foreseen(planned(), SLOW)


@pytest.mark.usefixtures("inputs")
def test_items_take_their_tokens() -> None:
    params = tiny_params()
    found = []
    for items in (10, 30):
        params["tasks"]["last"] = {"kind": "last_word", "corpus": "text", "items": items}
        params["models"]["tiny"]["baseline_tasks"] = ["last"]
        plan = Plan(parse(params))
        found.append(foreseen(plan, SLOW)["evaluate"])
    architecture = next(iter(plan.fetched.values())).architecture
    one = evaluation_seconds(architecture, ITEM, SLOW)
    assert found[1] - found[0] == pytest.approx(20 * one)
    assert found[0] > JOB


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("tied", [True, False])
def test_every_compressed_checkpoint_is_on_disk(tied: bool) -> None:
    """All matrices in float32, a tied head once."""
    update(Path("inputs/tiny/config.json"), tie_word_embeddings=tied)
    plan = planned()
    attention, ffn, embedding = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 48, 300 * 32
    values = 3 * (attention + ffn) + (1 if tied else 2) * embedding
    assert disk(plan)["assemble"] == len(plan.runs) * 4 * values


@pytest.mark.usefixtures("inputs")
def test_a_study_is_foreseen_rule_by_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "machine_of", lambda architecture, compute: SLOW)
    Path("study.yaml").write_text(yaml.safe_dump(tiny_params()))
    assert main(["plan", "study.yaml"]) == 0
    said = capsys.readouterr().out
    plan = planned()
    rows = {row[0]: row[1:] for row in forecast.rows(plan, SLOW)}
    minutes = sum(foreseen(plan, SLOW).values()) / 60
    assert rows["all"][0] == f"{minutes:.1f}"
    assert rows["all"][1] == f"{max(peaks(plan).values()) / 1e9:.1f}"
    assert rows.keys() - {"all"} == foreseen(plan, SLOW).keys()
    for rule, taken, *_ in forecast.rows(plan, SLOW):
        assert any(rule in line and taken in line for line in said.splitlines())


@pytest.mark.usefixtures("inputs")
def test_trainings_take_their_steps() -> None:
    def seconds(progress: float) -> float:
        params = tiny_params()
        params["models"]["tiny"] = {"source": "embedded", "name": "dense", "progress": progress}
        return foreseen(Plan(parse(params)), SLOW)["fetch_model"]

    untrained, half, trained = map(seconds, (0, 0.5, 1))
    assert trained - untrained == pytest.approx(2 * (half - untrained))
    # three passes of 470,000 tokens through 2.4 million values, at the least
    assert trained - untrained > 3 * 470_000 * 2.4e6 / SLOW.macs_per_second
