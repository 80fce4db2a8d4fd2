"""params.yaml: defaults written down, unknown keys refused, errors that name the place."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import yaml
from support.workspace import ROOT, broken, tiny_params

from tensorpress.config.params import Params, load, merged, parse
from tensorpress.errors import TensorpressError
from tensorpress.planning.checks import layer_sets
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan

SCHEMA = ROOT / "docs/params.schema.json"


def test_shipped_params_are_valid() -> None:
    assert set(load(ROOT / "params.yaml").models) == {"dense", "moe"}


def test_schema_is_in_step() -> None:
    expected = json.dumps(Params.model_json_schema(), indent=1, sort_keys=True) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == expected, "run: tensorpress schema > the file"


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("unknown", 1, ["unknown: unknown key; allowed: calibration, compute, corpora,"]),
        ("storage.dtyp", "float16", ["storage.dtyp: unknown key; allowed: dtype"]),
        ("storage.dtype", "int8", ["storage.dtype", "'int8'", "bfloat16"]),
        ("methods.svd.rank", 0, ["methods.svd.rank: 0 is not allowed; allowed: 1 or more"]),
        ("methods.svd.method", "svdd", ["methods.svd.method: 'svdd'", "tucker_qkvo"]),
        ("methods.svd.order", 3, ["methods.svd.order: unknown key; allowed: budget, method, "]),
        ("tasks.heldout.kind", "ppl", ["tasks.heldout.kind: 'ppl'", "perplexity"]),
        ("tasks.heldout.corpus", "x", ["tasks.heldout.corpus: 'x'", "corpora", "text"]),
        ("models.tiny.source", "web", ["models.tiny.source: 'web'", "embedded"]),
        (
            "models.tiny",
            {"source": "embedded", "name": "dense", "width": 100},
            ["models.tiny.width: 100 is not allowed; allowed: multiples of 24, which 4 heads"],
        ),
        (
            "models.tiny",
            {"source": "embedded", "name": "dense", "progress": 1.5},
            ["models.tiny.progress: 1.5 is not allowed; allowed: 1.0 or less"],
        ),
        ("models.tiny", {"source": "embedded", "name": "big"}, ["models.tiny.name: 'big'", "bert"]),
        (
            "recipes.svd.layers",
            ["one", "one"],
            ["recipes.svd.layers: ['one', 'one'] is not allowed; allowed: each of them once"],
        ),
        (
            "recipes.svd.recover",
            {"train": "factors", "seeds": [0, 1, 0]},
            ["recipes.svd.recover.seeds: [0, 1, 0] is not allowed; allowed: each of them once"],
        ),
        ("recipes.svd.tasks", [], ["recipes.svd.tasks: [] is not allowed; allowed: 1 or more ent"]),
        ("recipes.svd.models", ["big"], ["recipes.svd.models: 'big'", "models: tiny"]),
        ("recipes.svd.steps.0.method", "tt", ["recipes.svd.steps.0.method: 'tt'", "svd, drop"]),
        ("recipes.svd.steps.0.modules", ["mlp"], ["recipes.svd.steps.0.modules: 'mlp'", "ffn.up"]),
        (
            "recipes.svd.compared_with",
            "x",
            ["compared_with: 'x'", "recipes: svd, drop"],
        ),
        ("recipes.svd.compared_with", "svd", ["with: 'svd' is not", "another recipe: drop"]),
        ("recipes.svd.tasks", ["x"], ["recipes.svd.tasks: 'x'", "heldout"]),
        (
            "layer_sets.one",
            {"middle": 0},
            ["layer_sets.one.middle: 0 is not allowed; allowed: 1 or more"],
        ),
        ("layer_sets.one", "some", ["layer_sets.one: 'some'", "all"]),
        ("layer_sets.one", {"left": 1}, ["layer_sets.one", "middle_out: K"]),
        ("calibration.corpus", "x", ["calibration.corpus: 'x'"]),
        (
            "methods.svd.rank",
            None,
            ["methods.svd: {'method': 'svd', 'rank': None", "exactly one of"],
        ),
        ("methods.svd", {"rank": 3}, ["methods.svd.method: missing"]),
        (
            "methods.svd",
            {"method": "neurons", "neurons": 5, "select": "magic"},
            ["methods.svd.select: 'magic' is not allowed; allowed: 'greedy' or 'leverage'"],
        ),
        (
            "methods.svd",
            {"method": "neurons", "neurons": 5, "rank": 1},
            ["methods.svd.rank: unknown key; allowed: alignment, budget"],
        ),
        (
            "methods.svd",
            {"method": "neurons", "neurons": 0},
            ["methods.svd.neurons: 0 is not allowed; allowed: 1 or more"],
        ),
        (
            "methods.svd",
            {"method": "svd", "budget": {"saved": 0.5, "kept": 0.1}},
            ["methods.svd.budget", "kept is filled in from the advice; allowed: leave it out"],
        ),
        (
            "methods.svd",
            {"method": "svd", "budget": {"saved": 0.5, "ranks": [1]}},
            ["methods.svd.budget", "ranks is filled in from the advice"],
        ),
        (
            "methods.svd",
            {"method": "advised", "saved": 0.5, "choices": [1]},
            ["methods.svd", "choices is filled in from the advice"],
        ),
        (
            "methods.svd",
            {"method": "svd", "rank": 5, "whiten": "input", "ridge": math.inf},
            ["methods.svd.ridge: inf is not allowed; allowed: a finite number"],
        ),
        (
            "methods.svd",
            {"method": "sparse", "share": 0.5, "damping": 1e-9},
            ["methods.svd.damping: 1e-09 is not allowed; allowed: 1e-06 or more"],
        ),
        (
            "methods.svd",
            {"method": "sparse", "share": 0.5, "criterion": "wanda", "damping": 0.1},
            ["damping belongs to criterion: sparsegpt, not to 'wanda'; allowed: leave it out"],
        ),
        (
            "methods.svd",
            {"method": "quantised_plus_correction", "correction": {"rank": 2}, "damping": 1},
            ["damping belongs to base.quantiser: gptq, not to 'rtn'; allowed: leave it out"],
        ),
        ("models.tiny.path", "", ["models.tiny.path: '' is not allowed; allowed: a path"]),
        (
            "models.tiny.path",
            "a\0b",
            [r"models.tiny.path: 'a\x00b' is not allowed; allowed: a path"],
        ),
        (
            "models.tiny",
            list(range(99)),
            ["models.tiny: [0, 1, ", "… (384) is not allowed; allowed: names"],
        ),
        ("reports.pareto.notebook", "x", ["reports.pareto.notebook: 'x'", "verdict"]),
        ("reports.pareto.notebook", "moe", ["reports.pareto.task: 'heldout'", "of kind moe: none"]),
    ],
)
def test_wrong_values_give_one_line(path: str, value: object, parts: list[str]) -> None:
    with pytest.raises(TensorpressError) as caught:
        parse(broken(path, value), "params.yaml")
    message = str(caught.value)
    assert message.startswith("params.yaml: ")
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # names, as keys
        ("recipes:\n  svd:", "recipes:\n  no:",
         'recipes: the name no is read by YAML as false; allowed: a quoted text ("no")'),
        ("layer_sets:\n  one:", "layer_sets:\n  1_000:",
         'layer_sets: the name 1_000 is read by YAML as 1000; allowed: a quoted text ("1_000")'),
        ("models:\n  tiny:", "models:\n  007:",
         'models: the name 007 is read by YAML as 7; allowed: a quoted text ("007")'),
        ("tasks:\n  heldout:", "tasks:\n  2024-01-01:",
         "tasks: the name 2024-01-01 is read by YAML as the date "
         '"2024-01-01"; allowed: a quoted text ("2024-01-01")'),
        ("methods:\n  svd:", "methods:\n  null:",
         'methods: the name null is read by YAML as null; allowed: a quoted text ("null")'),
        # names, as references
        ("    - heldout", "    - On",
         'recipes.svd.tasks.0: On is read by YAML as true; allowed: a quoted text ("On")'),
        ("calibration:\n  corpus: text", "calibration:\n  corpus: 1.50",
         'calibration.corpus: 1.50 is read by YAML as 1.5; allowed: a quoted text ("1.50")'),
        ("calibration:\n  corpus: text", "calibration:\n  corpus:",
         "calibration.corpus: nothing is not allowed; allowed: a text"),
        # numbers that are others
        ("rank: 8", "rank: 010",
         "methods.svd.rank: 010 is read by YAML as 8; "
         'allowed: 8, where a number is meant, or a quoted text ("010")'),
        ("tokens: 256", "tokens: 1:30",
         "calibration.tokens: 1:30 is read by YAML as 90; "
         'allowed: 90, where a number is meant, or a quoted text ("1:30")'),
        # words that pydantic takes for 1
        ("rank: 8", "rank: on",
         "methods.svd.rank: on is read by YAML as true; allowed: a number"),
        ("middle: 1", "middle: Yes",
         "layer_sets.one.middle: Yes is read by YAML as true; allowed: a number"),
        ("one:\n    middle: 1", "one: [0, true]",
         "layer_sets.one.1: true is read by YAML as true; allowed: a number"),
        # keys that stand twice: YAML takes the last
        ("  drop:\n    method: drop", "  svd:\n    method: drop",
         "methods: the key 'svd' stands in line 17 and again in line 21; allowed: each key once"),
        ("storage:", "calibration: {}\nstorage:",
         "the file: the key 'calibration' stands in line 1 and again in line 12"),
    ],
)  # fmt: skip
def test_what_yaml_reads_as_something_else_is_refused_from_file_and_through_snakemake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = yaml.safe_dump(tiny_params(), sort_keys=False)
    assert text.count(old) >= 1
    path = tmp_path / "p.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TensorpressError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    # as Snakemake gives it: values without what was written
    with pytest.raises(TensorpressError) as caught:
        merged(yaml.safe_load(path.read_text()), [path])
    assert str(caught.value).startswith(f"p.yaml: {message}")


def test_numbers_and_quoted_names_stay_what_they_are(tmp_path: Path) -> None:
    text = yaml.safe_dump(tiny_params(), sort_keys=False).replace("svd", '"no"')
    text = text.replace('method: "no"', "method: svd", 1).replace("tokens: 256", "tokens: 1_000")
    (tmp_path / "p.yaml").write_text(text)
    read = load(tmp_path / "p.yaml")
    assert set(read.recipes) == {"no", "drop"}
    assert read.calibration.tokens == 1000


def test_one_file_over_another_and_single_values_over_both(tmp_path: Path) -> None:
    """What the command line overrides need not be in any file."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(tiny_params()))
    config = broken("calibration.corpus", False)
    with pytest.raises(TensorpressError) as caught:
        merged(config, [tmp_path / "p.yaml"])
    assert str(caught.value).endswith(
        'calibration.corpus: false is read by YAML as false; allowed: a quoted text ("false")'
    )
    assert merged(tiny_params(), []) == parse(tiny_params())


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("recipes", "baseline", "recipes: 'baseline' is not allowed; allowed: any other name"),
        ("layer_sets", "none", "layer_sets: 'none' is not allowed; allowed: any other name"),
        ("recipes", "a b", "recipes: the name 'a b' is not allowed; allowed: up to 60 of A-Z"),
        ("recipes", "ü", "recipes: the name 'ü' is not allowed; allowed: up to 60 of A-Z"),
        ("models", "x" * 61, "models: the name 'xxx"),
        ("tasks", "y" * 300, "tasks: the name 'yyy"),
    ],
)
def test_names_that_mean_something_else_or_no_file_can_have(
    section: str, name: str, message: str
) -> None:
    params = tiny_params()
    params[section][name] = next(iter(params[section].values()))
    with pytest.raises(TensorpressError) as caught:
        parse(params)
    assert str(caught.value).startswith(f"params: {message}")
    assert len(str(caught.value)) < 250


def test_the_longest_names_make_file_names(inputs: Path) -> None:
    """Rows of the evaluation of a recovered model are named after most of them."""
    params = yaml.safe_load(
        yaml.safe_dump(tiny_params())
        .replace("tiny:", f"{'m' * 60}:")
        .replace("- tiny", f"- {'m' * 60}")
        .replace("heldout", "t" * 60)
        .replace("drop:", f"{'d' * 60}:")
        .replace("method: drop", f"method: {'d' * 60}")
    )
    params["methods"]["d" * 60]["method"] = "drop"
    params["layer_sets"]["one"] = [0, 2]
    params["reports"] = {}
    params["corpora"]["other"] = {"source": "file", "path": "inputs/other.txt"}
    (inputs / "inputs/other.txt").write_text("A text of its own.")
    for recipe in params["recipes"].values():
        recipe |= {
            "rounding": {"bits": 4},
            "recover": {"train": "adapters", "corpus": "other", "window": 64, "seeds": [2**31]},
        }
    params["calibration"]["corpus"] = "other"
    paths = [Path(path) for live in live_paths(Plan(parse(params))).values() for path in live]
    longest = max(len(f".partial-4194304-{path.name}.tmp") for path in paths)
    assert 200 < longest <= 255


def test_missing_section() -> None:
    params = tiny_params()
    del params["tasks"]
    with pytest.raises(TensorpressError, match="tasks: missing"):
        parse(params)


def test_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: [")
    with pytest.raises(TensorpressError, match="not YAML"):
        load(tmp_path / "p.yaml")


def test_defaults_do_not_depend_on_being_written() -> None:
    params = tiny_params()
    params["methods"]["svd"] = {"method": "svd", "rank": 8}
    written = copy.deepcopy(params)
    written["methods"]["svd"]["whiten"] = "none"
    assert parse(params) == parse(yaml.safe_load(yaml.safe_dump(written)))


def test_layer_sets() -> None:
    params = broken("layer_sets.one", [2, 0])
    assert layer_sets(parse(params).layer_sets["one"], 3, "one") == [(0, 2)]
    each = parse(broken("layer_sets.one", "each")).layer_sets["one"]
    assert layer_sets(each, 3, "one") == [(0,), (1,), (2,)]
    out = parse(broken("layer_sets.one", {"middle_out": 3})).layer_sets["one"]
    assert layer_sets(out, 8, "one") == [(3, 4, 5)]
    with pytest.raises(
        TensorpressError, match=r"layer_sets\.one: 3 is not allowed; allowed: 0 to 2"
    ):
        layer_sets((0, 3), 3, "one")
    with pytest.raises(TensorpressError, match=r"middle_out: 3 is not allowed; allowed: 1 to 2"):
        layer_sets(out, 2, "one")
