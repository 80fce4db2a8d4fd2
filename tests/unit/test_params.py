"""params.yaml: defaults written down, unknown keys refused, errors that name the place."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from workspace import ROOT, tiny_params

from tensorpress.checks import layer_sets
from tensorpress.errors import TensorpressError
from tensorpress.params import Params, load, parse

SCHEMA = ROOT / "docs/params.schema.json"


def broken(path: str, value: object) -> dict:
    params = copy.deepcopy(tiny_params())
    *parents, last = path.split(".")
    place = params
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return params


def test_shipped_params_are_valid() -> None:
    assert set(load(ROOT / "params.yaml").models) == {"dense", "moe"}


def test_schema_is_in_step() -> None:
    expected = json.dumps(Params.model_json_schema(), indent=1, sort_keys=True) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == expected, "run: tensorpress schema > the file"


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("unknown", 1, ["unknown: unknown key"]),
        ("storage.dtyp", "float16", ["storage.dtyp: unknown key"]),
        ("storage.dtype", "int8", ["storage.dtype", "'int8'", "bfloat16"]),
        ("methods.svd.rank", 0, ["methods.svd.rank: 0", "greater than or equal to 1"]),
        ("methods.svd.method", "svdd", ["methods.svd.method: 'svdd'", "tucker_qkvo"]),
        ("methods.svd.order", 3, ["methods.svd.order: unknown key"]),
        ("tasks.heldout.kind", "ppl", ["tasks.heldout.kind: 'ppl'", "perplexity"]),
        ("tasks.heldout.corpus", "x", ["tasks.heldout.text: 'x'", "corpora", "text"]),
        ("models.tiny.source", "web", ["models.tiny.source: 'web'", "embedded"]),
        ("recipes.svd.models", ["big"], ["recipes.svd.models: 'big'", "models: tiny"]),
        ("recipes.svd.steps.0.method", "tt", ["recipes.svd.steps.0.method: 'tt'", "svd, drop"]),
        ("recipes.svd.steps.0.modules", ["mlp"], ["recipes.svd.steps.0.modules: 'mlp'", "ffn.up"]),
        ("recipes.svd.tasks", ["x"], ["recipes.svd.tasks: 'x'", "heldout"]),
        ("layer_sets.one", {"middle": 0}, ["layer_sets.one.middle: 0", "greater than or equal"]),
        ("layer_sets.one", "some", ["layer_sets.one: 'some'", "all"]),
        ("layer_sets.one", {"left": 1}, ["layer_sets.one", "middle_out: K"]),
        ("calibration.corpus", "x", ["calibration.corpus: 'x'"]),
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
