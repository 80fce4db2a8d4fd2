"""What two studies differ in: settings by places, numbers paired where windows are the same."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml
from scipy import stats
from support.study import Study
from support.workspace import tiny_params

from tensorpress.commands import cli, compare
from tensorpress.errors import TensorpressError
from tensorpress.report import comparison

FIRST, SECOND = (3.0, 3.2, 3.4, 3.6), (3.1, 3.2, 3.5, 3.8)


def table(folder: Path, windows: tuple[float, ...], saved: float, **fields: str) -> Path:
    """Results of two runs: one whose windows are known, and one that only one table has."""
    study = Study()
    study.windows("svd", "svd", saved, windows, **fields)
    study.run(f"drop_{folder.name}", "drop", 20.0, 0.5)
    folder.mkdir()
    return study.written(folder)["results"]


def test_settings_are_told_by_their_places() -> None:
    first = {"methods": {"svd": {"rank": 4}}, "calibration": {"tokens": 8}, "layers": [0, 1]}
    second = {"methods": {"svd": {"rank": 8}, "tt": {"order": 3}}, "layers": [0, 1]}
    assert comparison.settings(first, second) == [
        comparison.Setting("methods.svd.rank", 4, 8),
        comparison.Setting("calibration.tokens", 8, None),
        comparison.Setting("methods.tt.order", None, 3),
    ]


def test_numbers_of_the_same_windows_are_paired(tmp_path: Path) -> None:
    table(tmp_path / "one", FIRST, 10.0)
    table(tmp_path / "other", SECOND, 12.0)
    found = compare.compare(str(tmp_path / "one"), str(tmp_path / "other"))
    assert found.settings is None
    assert [line.partition(":")[0] for line in found.missing] == ["settings", "settings"]
    assert found.numbers is not None
    by_metric = {each.place.metric: each for each in found.numbers.of_both}
    perplexity, saved = by_metric["perplexity"], by_metric[comparison.BITS_SAVED]
    differences = [b - a for a, b in zip(FIRST, SECOND, strict=True)]
    spread = stats.sem(differences) * stats.t.ppf(0.975, 3)
    assert perplexity.paired
    assert math.isclose(perplexity.change, 0.1)
    assert math.isclose(perplexity.half_width or 0, spread)
    assert math.isclose(perplexity.second, math.exp(3.4))
    assert (saved.first, saved.second, saved.change, saved.paired) == (10.0, 12.0, 2.0, False)
    assert {each.recipe for each in found.numbers.only_first} == {"drop_one"}
    assert {each.recipe for each in found.numbers.only_second} == {"drop_other"}


def test_numbers_of_other_windows_are_not_paired(tmp_path: Path) -> None:
    one = table(tmp_path / "one", FIRST, 10.0)
    other = table(tmp_path / "other", SECOND, 10.0, protocol="another")
    found = comparison.numbers(one, other, Path(__file__).parents[2] / "queries")
    (perplexity,) = [each for each in found.of_both if each.place.metric == "perplexity"]
    widths = [stats.sem(each) * stats.t.ppf(0.975, 3) for each in (FIRST, SECOND)]
    assert not perplexity.paired
    assert math.isclose(perplexity.change, 0.1)
    assert math.isclose(perplexity.half_width or 0, math.hypot(*widths))


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    one = table(tmp_path / "one", FIRST, 10.0)
    old = tmp_path / "old.parquet"
    parquet.write_table(parquet.read_table(one).drop_columns(["observations"]), old)
    with pytest.raises(
        TensorpressError, match=r'"observations" not found .*tables of this version'
    ):
        compare.compare(str(one), str(old))


def test_params_files_and_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = tiny_params()
    params["models"] = {"dense": {"source": "embedded", "name": "dense"}}
    for recipe in params["recipes"].values():
        recipe["models"] = ["dense"]
    params["reports"] = {}
    params["corpora"] = {"text": {"source": "embedded", "split": "heldout"}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "first"]):
        names = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *names, *command], check=True)
    params["methods"]["svd"]["rank"] += 1
    Path("study.yaml").write_text(yaml.safe_dump(params))
    assert cli.main(["compare", "HEAD", "study.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rank = params["methods"]["svd"]["rank"]
    assert found["settings"] == [{"place": "methods.svd.rank", "first": rank - 1, "second": rank}]
    assert found["numbers"] is None
    assert [line.split()[0] for line in found["missing"]] == ["numbers:", "numbers:"]
    for wrong in ("no-such", "params.yam"):
        with pytest.raises(
            TensorpressError, match=f"compare: '{wrong}' is not allowed; allowed: a"
        ):
            compare.compare(wrong, "study.yaml")
    Path("empty").mkdir()
    with pytest.raises(TensorpressError, match=r"compare: empty/results.parquet is missing"):
        compare.compare("empty", "study.yaml")
