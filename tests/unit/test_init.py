"""``tensorpress init``: its study is valid, of the sizes that it names, and fits the time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from support.loopback_hub import Repository, loopback_hub, save_wikitext
from support.untrusted import REVISION
from support.workspace import ROOT, save_tiny, tiny_llama, tiny_moe, tiny_text

from tensorpress.architectures.families.table import architecture_of
from tensorpress.commands import init as command
from tensorpress.commands.cli import main
from tensorpress.commands.init import init
from tensorpress.commands.recipes import Grid, recipes
from tensorpress.commands.sizing import MetaModel, sizes
from tensorpress.config.params import Params, parse
from tensorpress.errors import TensorpressError
from tensorpress.methods.registry import spec_class
from tensorpress.planning.foresight import (
    AROUND,
    ELEMENT,
    LOGIT,
    SCORE,
    Machine,
    evaluation_seconds,
    foreseen,
)
from tensorpress.planning.plan import Plan
from tensorpress.sources.corpora import text_of
from tensorpress.sources.hub_datasets import require
from tensorpress.sources.inputs import FileCorpus
from tensorpress.sources.texts import WIKITEXT2

SLOW = Machine(macs_per_second=1e9, workers=1)
CONTROLS = {"RTN-8", "RTN-4", "whitened SVD", "drop"}
TEXT = Path("inputs/text.txt")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one for every run of the tests, and no hub to wait for."""
    monkeypatch.setattr(command, "machine_of", lambda architecture, compute: SLOW)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def study(text: str) -> Params:
    return parse(yaml.safe_load(text))


def total(text: str) -> float:
    """Minutes that the comments of a study foresee."""
    (found,) = re.findall(r"^# ([\d.]+) of [\d.]+ minutes", text, re.MULTILINE)
    return float(found)


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("minutes", [2, 5, 60])
def test_a_study_is_valid_and_fits(minutes: int) -> None:
    text = init("inputs/tiny", TEXT, minutes)
    plan = Plan(study(text))
    assert total(text) == pytest.approx(sum(foreseen(plan, SLOW).values()) / 60, abs=0.06)
    assert total(text) <= minutes
    by_part = re.findall(r"^#     (\w+) +([\d.]+)$", text, re.MULTILINE)
    assert sum(float(each) for _, each in by_part) == pytest.approx(total(text), abs=0.6)
    found = {
        spec.control(r.rounding.bits if r.rounding else None)
        for r in plan.params.recipes.values()
        for spec in (plan.params.methods[step.method] for step in r.steps)
    }
    assert found >= CONTROLS


@pytest.mark.usefixtures("inputs")
def test_more_time_tries_and_measures_more() -> None:
    TEXT.write_text("\n\n".join([tiny_text()] * 9))
    short, long = (study(init("inputs/tiny", TEXT, minutes)) for minutes in (2, 60))
    assert len(short.recipes) < len(long.recipes)
    assert short.calibration.tokens < long.calibration.tokens
    assert short.tasks["heldout"].max_windows < long.tasks["heldout"].max_windows


@pytest.mark.parametrize("percent", [10, 20, 40])
@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_names_say_the_bits_that_are_saved(
    inputs: Path, moe_directory: Path, kind: str, percent: int
) -> None:
    folder = {"llama": inputs / "inputs/tiny", "moe": moe_directory}[kind]
    params = study(init(str(folder), TEXT, 60))
    (name,) = params.models
    config = json.loads((folder / "config.json").read_text())
    found = list(sizes(MetaModel(name, config), params))
    saved = {(each.recipe, len(each.layers)): each.saved.with_embeddings_percent for each in found}
    layers = config["num_hidden_layers"]
    for recipe in ("tt", "tucker", "svd-whitened"):
        everywhere = saved[f"{recipe}-{percent}", layers]
        # ranks are whole numbers, of matrices of 32 columns
        assert percent - 0.1 <= everywhere <= percent + 6, recipe
        assert everywhere / 4 < saved[f"{recipe}-{percent}", layers // 2] < everywhere
    (advised,) = (each.as_dict() for each in found if each.recipe == f"advised-{percent}")
    assert advised["advised_saved"] == percent / 100
    assert advised["bits_saved_percent"] is advised["stored_values"] is None
    formats = {spec.method for spec in params.methods.values()}
    assert ("td_moe" in formats) == (kind == "moe")
    assert ("tucker_ffn" in formats) == (kind == "llama")


@pytest.mark.parametrize("config", sorted((ROOT / "studies/configs").glob("*.json")), ids=str)
def test_recipes_fit_the_shapes_of_published_models(config: Path) -> None:
    architecture = architecture_of(json.loads(config.read_text()), config.stem)
    tried = recipes(architecture, Grid((10, 20, 40), halves=True))
    for recipe in tried.recipes.values():
        for step in recipe["steps"]:
            spec = spec_class(tried.methods[step["method"]]["method"]).model_validate(
                tried.methods[step["method"]]
            )
            for layer in set(architecture.representatives):
                shape = architecture.shape(layer)
                for group in spec.groups:
                    if shape.group(group) and {"all", group} & set(step["modules"]):
                        spec.check(shape, group)
    assert {"svd-whitened-20", "rtn8", "rtn4", "drop-20", "advised-20"} <= tried.recipes.keys()


def test_a_budget_beyond_what_is_compressed_is_left_out_and_said() -> None:
    config = {**tiny_llama().config.to_dict(), "vocab_size": 3000}
    tried = recipes(architecture_of(config, "m"), Grid((10, 40), halves=False))
    assert "svd-whitened-40" not in tried.recipes
    assert "advised-40" not in tried.recipes
    assert any(line.startswith("Left out: svd-whitened-40, for that is") for line in tried.left_out)


@pytest.mark.usefixtures("inputs")
def test_a_folder_and_a_text_outside_are_declared(tmp_path: Path) -> None:
    outside = save_tiny(tiny_moe(), tmp_path.parent / f"{tmp_path.name}-outside")
    params = study(init(str(outside), TEXT, 60))
    assert params.external == (str(outside),)
    assert study(init("inputs/tiny", TEXT, 60)).external == ()


@pytest.mark.usefixtures("inputs")
def test_the_text_is_cut_once() -> None:
    params = study(init("inputs/tiny", TEXT, 5))
    train, heldout = (text_of(name, params.corpora[name]) for name in ("train", "heldout"))
    whole = TEXT.read_text()
    assert whole.startswith(train)
    assert whole.endswith(heldout)
    assert whole[len(train) : -len(heldout)] == "\n\n"
    assert len(train) / len(whole) == pytest.approx(0.75, abs=0.05)
    keys = {name: corpus.key for name, corpus in Plan(params).corpora.items()}
    assert len(set(keys.values())) == 2


@pytest.mark.parametrize("text", ["word " * 100, "line of words\n" * 100, "x" * 500])
def test_a_text_without_paragraphs_is_cut_too(tmp_path: Path, text: str) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    parts = [
        text_of("t", FileCorpus(source="file", path=str(file), split=split))
        for split in ("train", "heldout")
    ]
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert len(parts[0]) / len(text) == pytest.approx(0.75, abs=0.05)


@pytest.mark.usefixtures("inputs")
def test_without_a_text_or_a_hub_it_is_the_embedded_prose() -> None:
    text = init("inputs/tiny", None, 60)
    assert {c.source for c in study(text).corpora.values()} == {"embedded"}
    assert "the hub gives no WikiText-2 here" in text


@pytest.mark.usefixtures("inputs")
def test_a_repository_is_pinned_and_measured_on_wikitext2(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require.cache_clear()
    with loopback_hub() as hub:
        hub.connect(tmp_path / "home", monkeypatch)
        hub.repositories["models/some/model"] = Repository({REVISION: llama_directory})
        texts = save_wikitext(tmp_path / "wikitext", {"test": [" A bird sings . \n"]})
        hub.repositories["datasets/Salesforce/wikitext"] = Repository(
            {str(WIKITEXT2.revision): texts}
        )
        for model in ("some/model", f"some/model@{REVISION}"):
            params = study(init(model, None, 60))
            assert params.models["model"].revision == REVISION
            assert [c.split for c in params.corpora.values()] == ["train", "test"]
        Plan(params)
        with pytest.raises(TensorpressError, match=r"^models\.model\.revision: some/model has no"):
            init("some/model@nothing", None, 60)
        with pytest.raises(TensorpressError, match=r"repository: 'some/typo' is not on the hub"):
            init("some/typo", None, 60)


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inputs/tiny", "--minutes", "0.1"], "--minutes: 0.1 is not allowed: the smallest study"),
        (["inputs/tiny", "--minutes", "0"], "--minutes: 0 is not allowed; allowed: more than 0"),
        (["inputs/nothing"], "init: 'inputs/nothing' is neither"),
        (["nothing"], "init: 'nothing' is neither"),
        (["inputs/tiny", "--text", "no.txt"], "--text: 'no.txt' is not a file"),
        (["inputs/tiny", "--text", "short.txt"], "--text: short.txt: "),
        (["inputs/tiny", "--text", "latin.txt"], "--text: latin.txt is not UTF-8"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text(tiny_text()[:3000])
    Path("latin.txt").write_bytes("é".encode("latin-1") * 9000)
    assert main(["init", *arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith(f"tensorpress: {message}")
    assert said.err.count("\n") == 1
    assert "allowed: " in said.err or "is not a file" in said.err


def test_the_foreseen_time_of_a_window_is_that_of_its_products(llama_directory: Path) -> None:
    config = json.loads((llama_directory / "config.json").read_text())
    architecture = architecture_of(config, "m")
    attention = 32 * 32 * 2 + 32 * 16 * 2 + 2 * 64 * 32  # q, o; k, v; scores and sums of 64 tokens
    token = 3 * (attention + 3 * 32 * 48) + 300 * 32
    slow, fast = (evaluation_seconds(architecture, 64, Machine(rate, 1)) for rate in (1e9, 2e9))
    assert slow - fast == pytest.approx(AROUND * 64 * token / 2e9)
    rest = 3 * (SCORE * 4 * 64 + ELEMENT * 32) + LOGIT * 300
    assert 2 * fast - slow == pytest.approx(64 * rest)


@pytest.mark.usefixtures("inputs")
def test_jobs_beside_each_other_take_less_time() -> None:
    plan = Plan(study(init("inputs/tiny", TEXT, 60)))
    one = foreseen(plan, SLOW)
    two = foreseen(plan, Machine(SLOW.macs_per_second, 2))
    assert two["evaluate"] == pytest.approx(one["evaluate"] / 2)
    assert two["calibrate"] == one["calibrate"]  # a single job
