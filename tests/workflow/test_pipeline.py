"""The whole workflow on tiny random models: every method, every task, every report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
import torch
from support.methods import EXAMPLES, written
from support.workspace import Workspace, save_tiny, tiny_moe, tiny_params
from transformers import Qwen3MoeForCausalLM

from tensorpress.checkpoints.rows import DecompositionRow, ResultRow, schema
from tensorpress.config.reports import NOTEBOOKS
from tensorpress.methods.advised import Advice
from tensorpress.methods.base import MethodSpec

OF_METHODS = {name: spec.approach for name, spec in EXAMPLES.items()}
OF_CHOICES = {**OF_METHODS, "rounding": "quantisation"}
TENSOR_FORMATS = {
    "mixed", "separate", "per_head", "qkvo", "qkvo_published", "td_moe", "each_td_moe",
}  # fmt: skip
APPROACHES = {
    **dict.fromkeys(TENSOR_FORMATS, "tensor format"),
    **dict.fromkeys(("each_svd", "small", "small_lora"), "low rank"),
    "rtn": "quantisation",
    "drop": "pruning",
    "baseline": "uncompressed",
}


def written_study() -> dict:
    """Both tiny models with every task and report, and with methods in various combinations."""
    params = tiny_params()
    params["storage"]["dtype"] = "bfloat16"
    params["corpora"]["train"] = {"source": "file", "path": "inputs/train.txt"}
    params["models"]["tiny"]["baseline_tasks"] = ["mismatch", "family", "super_weights", "samples"]
    params["models"]["moe"] = {
        "source": "local",
        "path": "inputs/moe",
        "baseline_tasks": ["balance", "ngram"],
    }
    examples = {name: written(spec) for name, spec in EXAMPLES.items()}
    params["methods"] = examples | params["methods"]
    params["methods"] |= {
        "tucker-qkvo-published": {**examples["tucker_qkvo"], "layout": "published"},
        "tt-heads": {**examples["tt_per_head"], "whiten": "input"},
        "tucker-heads": {
            "method": "tucker_per_head",
            "budget": {"saved": 0.2},
        },
        "td-moe": {"method": "td_moe", "ratio": 0.3, "whiten": "both"},
        "svd-4": {"method": "svd", "rank": 4, "whiten": "input"},
        "advised": {"method": "advised", "saved": 0.2, "group_size": 16},
    }
    params["layer_sets"] |= {"each": "each", "all": "all"}

    def recipe(model: str, steps: list, layers: list, tasks: list) -> dict:
        return {"models": [model], "steps": steps, "layers": layers, "tasks": tasks}

    td_moe = [
        {"modules": ["experts"], "method": "td-moe"},
        {"modules": ["attention"], "method": "dense"},
    ]
    params["recipes"] = {
        "drop": recipe("tiny", [{"modules": ["all"], "method": "drop"}], ["one"], ["heldout"]),
        "each_svd": recipe("tiny", [{"modules": ["ffn"], "method": "svd"}], ["each"], ["heldout"]),
        "mixed": recipe(
            "tiny",
            [
                {"modules": ["attention"], "method": "tucker_qkvo"},
                {"modules": ["ffn"], "method": "tucker_ffn"},
            ],
            ["one"],
            ["heldout", "speed", "cloze", "last_word"],
        ),
        "separate": recipe(
            "tiny",
            [
                {"modules": ["attention"], "method": "tucker_qkvo_separate"},
                {"modules": ["embedding"], "method": "tt_sparse"},
            ],
            ["one"],
            ["heldout"],
        ),
        "per_head": recipe(
            "tiny",
            [
                {"modules": ["attention.q", "attention.o"], "method": "tt-heads"},
                {"modules": ["attention.k"], "method": "tucker-heads"},
            ],
            ["one"],
            ["heldout"],
        ),
        **{
            name: recipe(
                "tiny", [{"modules": ["attention"], "method": method}], ["one"], ["heldout"]
            )
            | more
            for name, method, more in (
                ("qkvo", "tucker_qkvo", {}),
                ("qkvo_published", "tucker-qkvo-published", {"compared_with": "qkvo"}),
            )
        },
        "rtn": recipe("tiny", [{"modules": ["all"], "method": "dense"}], ["one"], ["heldout"])
        | {"rounding": {"bits": 4, "group_size": 16}},
        "small": recipe(
            "tiny",
            [{"modules": ["ffn"], "method": "svd-4"}],
            ["one"],
            ["heldout", "tokens", "prediction", "geometry", "restoration", "samples"],
        ),
        "small_lora": recipe(
            "tiny", [{"modules": ["ffn"], "method": "svd-4"}], ["one"], ["heldout"]
        )
        | {
            "compared_with": "small",
            "recover": {
                "train": "adapters",
                "rank": 2,
                "steps": 2,
                "batch": 2,
                "accumulation": 1,
                "window": 32,
                "corpus": "train",
                "seeds": [0, 1],
            },
        },
        "advised": recipe(
            "tiny", [{"modules": ["all"], "method": "advised"}], ["all"], ["heldout", "prediction"]
        ),
        "td_moe": recipe(
            "moe",
            td_moe,
            ["one"],
            ["heldout", "speed", "cloze", "last_word", "routing", "prediction"],
        ),
        "each_td_moe": recipe("moe", td_moe, ["each"], ["heldout"]),
    }
    text = {"corpus": "text", "window": 64}
    params["tasks"] |= {
        "cloze": {"kind": "cloze", "corpus": "text", "items": 8},
        "last_word": {"kind": "last_word", "corpus": "text", "items": 8},
        "speed": {"kind": "speed", "batch": 1, "prompt_tokens": 16, "new_tokens": 2, "repeats": 1},
        "balance": {"kind": "expert_balance", "max_windows": 4, **text},
        "ngram": {"kind": "ngram", "training": "text", "order": 2, **text},
        "mismatch": {"kind": "heterogeneity"},
        "family": {"kind": "best_of_family", "orders": [2], "scramblings": 2},
        "super_weights": {"kind": "super_weights"},
        "restoration": {"kind": "restoration"},
        "geometry": {"kind": "geometry", "max_windows": 2, **text},
        "routing": {"kind": "moe", "max_windows": 2, **text},
        "samples": {"kind": "generation", "new_tokens": 4},
        "tokens": {"kind": "accuracy", "max_windows": 4, **text},
        "prediction": {"kind": "prediction"},
    }
    shown = {spec["kind"]: name for name, spec in params["tasks"].items()}
    params["reports"] = {
        name: {"notebook": name, "model": "moe" if name == "moe" else "tiny", "task": shown[n.kind]}
        for name, n in NOTEBOOKS.items()
    }
    for name in ("pareto", "layers", "cost", "verdict"):
        params["reports"][f"{name}-moe"] = {**params["reports"][name], "model": "moe"}
    return params


def unused(params: dict) -> dict[str, MethodSpec]:
    """The examples of the methods that no recipe uses."""
    steps = (step for recipe in params["recipes"].values() for step in recipe["steps"])
    used = {params["methods"][step["method"]]["method"] for step in steps}
    return {name: spec for name, spec in EXAMPLES.items() if name not in used}


ADDED = unused(written_study())


def model_of(spec: MethodSpec) -> str:
    return "moe" if spec.groups == ("experts",) else "tiny"


def every_method() -> dict:
    """The written study, and a recipe for each method that it does not use."""
    params = written_study()
    for name, spec in ADDED.items():
        params["recipes"][name] = {
            "models": [model_of(spec)],
            "steps": [{"modules": [spec.groups[0]], "method": name}],
            "layers": ["one"],
            "tasks": ["heldout"],
        }
    return params


def moe_with_an_idle_expert() -> Qwen3MoeForCausalLM:
    """The first layer's last expert is sent no token, for what all tokens have in common."""
    model = tiny_moe()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.05
        model.model.layers[0].mlp.gate.weight[-1, 0] = -9
    return model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace.create(tmp_path_factory.mktemp("all") / "project", every_method())
    save_tiny(moe_with_an_idle_expert(), workspace.folder / "inputs/moe")
    lines = (f"In year {i} they told each other many long stories about that" for i in range(300))
    (workspace.folder / "inputs/train.txt").write_text("\n".join(lines), encoding="utf-8")
    workspace.snakemake("--resources", "gpu=1")
    return workspace


def table(workspace: Workspace, name: str) -> list[dict]:
    (path,) = (workspace.folder / "results/aggregate").rglob(f"{name}.parquet")
    expected = {"results": ResultRow, "decompositions": DecompositionRow}[name]
    assert pq.read_schema(path).remove_metadata().equals(schema(expected))
    return pq.read_table(path).to_pylist()


def test_nothing_is_left_to_do(finished: Workspace) -> None:
    assert finished.nothing_to_do()
    assert not list((finished.folder / "results").rglob(".partial-*"))


def test_every_run_is_in_the_table(finished: Workspace) -> None:
    rows = table(finished, "results")
    perplexities = [r for r in rows if r["kind"] == "perplexity" and r["metric"] == "perplexity"]
    runs = {(r["model"], r["recipe"], tuple(r["layers"])) for r in perplexities}
    assert runs == {
        ("tiny", "baseline", ()),
        ("tiny", "drop", (1,)),
        *(("tiny", "each_svd", (layer,)) for layer in range(3)),
        ("tiny", "mixed", (1,)),
        *((model_of(spec), name, (1,)) for name, spec in ADDED.items()),
        ("tiny", "separate", (1,)),
        ("tiny", "per_head", (1,)),
        *(
            ("tiny", name, (1,))
            for name in ("rtn", "small", "small_lora", "qkvo", "qkvo_published")
        ),
        ("tiny", "advised", (0, 1, 2)),
        ("moe", "baseline", ()),
        ("moe", "td_moe", (1,)),
        *(("moe", "each_td_moe", (layer,)) for layer in range(2)),
    }
    assert all(r["value"] > 1 for r in perplexities)
    for row in rows:
        on_disk = row["checkpoint_bytes"] - row["stored_bits"] / 8
        assert 0 < on_disk < 30_000
        saved = row["bits_saved_with_embeddings_percent"]
        if row["recipe"] != "small_lora":  # adapters may outweigh what was saved
            assert (saved > 0) == (row["recipe"] != "baseline"), row
    seeds = [r["seed"] for r in perplexities if r["recipe"] == "small_lora"]
    assert sorted(seeds) == [0, 1]
    made = {r["recipe"]: r for r in rows}
    (advice,) = (finished.folder / "results/advise").glob("*.json")
    choices = Advice.model_validate_json(advice.read_text()).modules
    chosen = {OF_CHOICES[each.chosen.method] for each in choices} - {"control"}
    advised = "mixture" if len(chosen) > 1 else chosen.pop()
    added = {name: OF_METHODS[name] for name in ADDED}
    expected = {**APPROACHES, **added, "advised": advised}
    assert {name: each["approach"] for name, each in made.items()} == expected
    assert (made["rtn"]["rounding_bits"], made["rtn"]["control"]) == (4, "RTN-4")
    assert made["small_lora"]["trained"] == "adapters"
    assert made["small_lora"]["compared_with"] == "small"
    assert made["qkvo_published"]["head_layout"] == "published"
    assert len({r["protocol"] for r in perplexities if r["model"] == "tiny"}) == 1
    kinds = {(r["model"], r["kind"]) for r in rows}
    assert {("tiny", k) for k in ("heterogeneity", "geometry", "generation", "prediction")} <= kinds
    assert {("moe", k) for k in ("moe", "prediction")} <= kinds
    assert ("moe", "expert_balance") in kinds
    assert ("moe", "ngram") in kinds
    versions = {r["version"].partition(";")[0] for r in rows if r["kind"] == "cloze"}
    assert versions == {"lm-eval 0.4.13, task version 1"}
    assert all(r["stderr"] is not None for r in rows if r["metric"] == "acc")
    speeds = {(r["metric"], r["state"]) for r in rows if r["kind"] == "speed"}
    assert {("prefill_speedup", None), ("peak_memory_mib", "dense")} <= speeds


def test_every_method_has_errors_within_bounds(finished: Workspace) -> None:
    rows = table(finished, "decompositions")
    assert {row["method"] for row in rows} == set(EXAMPLES)
    (large,) = (
        r for r in rows if r["method_name"] == "svd" and r["layer"] == 1 and "up" in r["module"]
    )
    (small,) = (r for r in rows if r["method_name"] == "svd-4" and "up" in r["module"])
    assert small["relative_error"] > large["relative_error"]
    for row in rows:
        # where matrices share a basis that may be any, only their product tells
        told = "relative_error" if row["product_error"] is None else "product_error"
        assert 0 <= row[told] <= 1.5
        if row["upper_bound"] is not None:
            assert row["stack_error"] <= row["upper_bound"] * (1 + 1e-5) + 1e-6
        if row["lower_bound"] is not None:
            assert row["lower_bound"] <= row["stack_error"] * (1 + 1e-5) + 1e-6


def test_checkpoints_say_what_was_done_to_them(finished: Workspace) -> None:
    plans = list((finished.folder / "results/assemble").glob("*/plan.json"))
    assert plans
    for path in plans:
        for entry in json.loads(path.read_text())["modules"]:
            assert entry["settings"]["method"] == entry["method"]
            assert entry["module"] in entry["stack"]
            assert entry["relative_error"] >= 0
            assert (entry["stack_bits"] == 0) == (entry["method"] == "drop")
            if entry["method"] != "advised":  # whatever was chosen
                ranked = OF_METHODS[entry["method"]] in ("tensor format", "low rank", "hybrid")
                # what stands of each head, and a core of a format of its own, are in the settings
                ranked = ranked and entry["method"] not in ("heads", "sparse_tucker")
                assert bool(entry["ranks"]) == ranked


OF_OTHER_STUDIES = ("allocation", "sentences", "specialisation")
"""Queries that have nothing to say of this one: tests/unit has rows for them."""


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (Path(__file__).parents[2] / "queries").glob("*.sql"))
)
def test_queries_answer(finished: Workspace, name: str) -> None:
    records = json.loads(finished.run("tensorpress", "query", name, "--json").stdout)
    if name in OF_OTHER_STUDIES:
        return
    assert records
    assert {"tiny", "moe"} & {record["model"] for record in records}


def test_pareto_marks_exactly_the_undominated_runs(finished: Workspace) -> None:
    records = json.loads(finished.run("tensorpress", "query", "pareto", "--json").stdout)
    for record in records:
        rivals = [r for r in records if r["model"] == record["model"]]
        beaten = any(
            r["bits_saved_percent"] >= record["bits_saved_percent"]
            and r["perplexity"] <= record["perplexity"]
            and (r["bits_saved_percent"], -r["perplexity"])
            != (record["bits_saved_percent"], -record["perplexity"])
            for r in rivals
        )
        assert record["efficient"] == (not beaten)


def test_reports_are_whole_pages(finished: Workspace) -> None:
    pages = list((finished.folder / "results/reports").glob("*.html"))
    assert len(pages) == len(NOTEBOOKS) + 4
    for page in pages:
        html = page.read_text()
        assert "image/png" in html or "data:image" in html
        assert "Traceback" not in html
        assert "https://" not in html.split("<body")[0].split("</style>")[-1]


def test_the_site_has_a_page_for_every_run(finished: Workspace) -> None:
    (site,) = (finished.folder / "results/site").glob("study-*")
    assert len(list(site.glob("pages/*.html"))) == len(NOTEBOOKS) + 4
    made = {page.stem for page in site.glob("runs/*.html")}
    rows = json.loads(finished.run("tensorpress", "query", "every_run", "--json").stdout)
    assert made == {row["run"].rpartition("/")[2] for row in rows}
    plans = {plan.stem for plan in site.glob("runs/*.json")}
    assert {name for name in made if "-baseline-" not in name} <= plans <= made
    for page in site.rglob("*.html"):
        for where in re.findall(r'(?:href|src)="(?!data:|#)([^"]*)"', page.read_text()):
            assert (page.parent / unquote(where)).is_file(), (page, where)


def test_snakemake_report(finished: Workspace) -> None:
    finished.snakemake("--report", "report.html")
    assert (finished.folder / "report.html").stat().st_size > 10_000


def test_lints(finished: Workspace) -> None:
    finished.run("snakemake", "--lint")
