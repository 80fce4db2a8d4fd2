"""The frontier, from rows of a study that was never run: who saves most at equal loss."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.stages import ask
from support.study import Study, method_spec, whole_study

from tensorpress.report import frontier

HYBRID = method_spec("quantised_plus_correction")


def study() -> Study:
    """Rounding saves 40 % well and 60 % badly, a hybrid 50 % well; a train leads in attention."""
    made = Study()
    made.baseline()
    made.run("rtn8", "dense", 40, 0.001, rounding_bits=8, module_groups="attention+ffn")
    made.run("rtn4", "dense", 60, 0.08, rounding_bits=4, module_groups="attention+ffn")
    made.run("hybrid", [HYBRID], 50, 0.03, module_groups="attention+ffn")
    made.run("tt_rounded", "tt", 55, 0.5, rounding_bits=4, module_groups="attention+ffn")
    made.run("tt_attention", "tt", 10, 0.01, module_groups="attention")
    made.run("svd_attention", "svd", 11, 0.05, module_groups="attention")
    made.run("healed", "tt", 70, 0.0001, recovered=True, module_groups="attention+ffn")
    return made


def test_classes_and_the_best_of_each(tmp_path: Path) -> None:
    rows = ask("frontier", study().written(tmp_path)).set_index("recipe")
    assert rows["class"].to_dict() == {
        "rtn8": "quantisation", "rtn4": "quantisation", "hybrid": "combination",
        "tt_rounded": "combination", "tt_attention": "tensor format", "svd_attention": "low rank",
        "healed": "tensor format",
    }  # fmt: skip
    # the rounded train saves more than the hybrid, so both are efficient; what was recovered is not
    assert rows["efficient_of_class"].to_dict() == {name: name != "healed" for name in rows.index}


def test_a_run_that_loses_more_and_saves_less_is_not_efficient(tmp_path: Path) -> None:
    made = study()
    made.run("rtn6", "dense", 50, 0.09, rounding_bits=6)
    made.run("rtn4_twin", "dense", 60, 0.08, rounding_bits=4)
    rows = ask("frontier", made.written(tmp_path)).set_index("recipe")["efficient_of_class"]
    assert not rows["rtn6"]
    assert rows["rtn4"] != rows["rtn4_twin"]


def test_bits_at_equal_loss(tmp_path: Path) -> None:
    rows = ask("bits_at_loss", study().written(tmp_path))
    assert list(rows["most_nats"]) == [0.02, 0.05, 0.1]
    assert list(rows["points_more"]) == [-40, 10, -10]
    assert list(rows["tensor_saved_percent"]) == [10, 10, 10]
    words = frontier.at_loss(rows)
    assert words.startswith(
        "At a loss of at most 0.02 nats per token quantisation saves 40.0 % of the model's bits "
        "more than the best combination: 40.0 % (<code>rtn8</code>, 0.001 ±"
    )
    assert "against nothing. At a loss of at most 0.05 nats per token the best combination" in words
    assert "saves 10.0 % of the model's bits more than quantisation: 50.0 %" in words


def test_equal_sentences_are_said_once(tmp_path: Path) -> None:
    made = Study()
    made.baseline()
    made.run("rtn8", "dense", 40, 0.001, rounding_bits=8)
    made.run("hybrid", [HYBRID], 40, 0.001)
    words = frontier.at_loss(ask("bits_at_loss", made.written(tmp_path)))
    assert words.startswith("At a loss of at most 0.02 or 0.05 or 0.1 nats per token the best")
    assert "saves as much as quantisation" in words


@pytest.mark.parametrize(("methods", "missing"), [("dense", "combination"), ("tt", "quantisation")])
def test_a_class_that_the_study_lacks_is_named(methods: str, missing: str, tmp_path: Path) -> None:
    made = Study()
    made.baseline()
    made.run("only", methods, 40, 0.001, rounding_bits=8)
    words = frontier.at_loss(ask("bits_at_loss", made.written(tmp_path)))
    assert words.startswith(f"The study has no {missing},")


def test_who_is_ahead_where(tmp_path: Path) -> None:
    rows = ask("ahead", study().written(tmp_path))
    fields = ["class", "from_percent", "to_percent", "recipe"]
    assert rows[fields].to_dict("records") == [
        {"class": "quantisation", "from_percent": 0, "to_percent": 40, "recipe": "rtn8"},
        {"class": "combination", "from_percent": 40, "to_percent": 50, "recipe": "hybrid"},
        {"class": "quantisation", "from_percent": 50, "to_percent": 60, "recipe": "rtn4"},
    ]
    assert frontier.ahead(rows)[1].startswith(
        "<b>40.0 to 50.0 %</b> of bits saved: combination, at the end <code>hybrid</code>"
    )


def test_a_part_may_have_another_verdict(tmp_path: Path) -> None:
    rows = ask("parts", study().written(tmp_path)).set_index("module_groups")
    # the only train of both groups is rounded: it saves less than plain rounding, and loses more
    assert rows[["runs", "ahead", "behind"]].T.to_dict() == {
        "attention": {"runs": 1, "ahead": 1, "behind": 0},
        "attention+ffn": {"runs": 1, "ahead": 0, "behind": 1},
    }
    assert rows.loc["attention", "lead_nats"] == pytest.approx(0.04)
    attention, _ = frontier.parts(rows.reset_index())
    assert "<code>tt_attention</code> on layers 1-2 (10.0 % saved), loses 0.040" in attention
    assert attention.endswith("less than <code>svd_attention</code>.")


def test_the_picture_has_a_mark_for_every_run(tmp_path: Path) -> None:
    rows = ask("frontier", whole_study(lead=0.05).written(tmp_path))
    drawn = frontier.picture(rows).to_dict()
    (data,) = drawn["datasets"].values()
    far = rows["nats_lost"] > frontier.WORST
    assert len(data) == len(rows) - far.sum() > 10
    assert far.any()
    assert frontier.beyond(rows) == f" Not shown: {far.sum()} that lose more than 2 nats."
    assert {row["class"] for row in data} <= set(frontier.CLASSES)
    marks = drawn["layer"][-1]["encoding"]["tooltip"]
    assert {"recipe", "of_layers", "bits_saved_percent", "loss"} <= {t["field"] for t in marks}


def test_a_picture_of_no_run_is_one_all_the_same(tmp_path: Path) -> None:
    made = Study()
    made.baseline()
    rows: pd.DataFrame = ask("frontier", made.written(tmp_path))
    assert rows.empty
    assert frontier.picture(rows).to_dict()["layer"]
    assert frontier.at_loss(ask("bits_at_loss", made.written(tmp_path))) == ""
