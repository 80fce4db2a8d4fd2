"""Models in half precision: the same results to its precision, and keys of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stages import calibrated, compress
from support.workspace import save_tiny, tiny_llama, tiny_params, tiny_text

from tensorpress.checkpoints.loading import load_model
from tensorpress.config.params import parse
from tensorpress.config.recovery import Adapters
from tensorpress.config.tasks.generation import Spec as Generation
from tensorpress.config.tasks.moe import Spec as MoeDiagnostics
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.config.tasks.super_weights import Spec as SuperWeights
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import generation, moe, perplexity, super_weights
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.recovery import recover

HALF = ("bfloat16", "float16")
WINDOWS = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))


def moments(directory: Path, dtype: str) -> list[dict[str, torch.Tensor]]:
    return calibrated(directory, WINDOWS, 2, load_model(directory, CPU, getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", HALF)
def test_calibration(llama_directory: Path, dtype: str) -> None:
    for half, whole in zip(
        moments(llama_directory, dtype), moments(llama_directory, "float32"), strict=True
    ):
        for name, value in whole.items():
            assert half[name].dtype == value.dtype
            if name.endswith(".tokens"):
                assert torch.equal(half[name], value)
            else:
                assert float((half[name] - value).norm() / value.norm()) < 0.02, name


def test_calibration_that_overflows_is_an_error(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(1e5)
    broken = save_tiny(model, tmp_path / "broken")
    with pytest.raises(TensorpressError, match="dtype: float16 is not allowed: moments of layer 0"):
        moments(broken, "float16")


def job(directory: Path, folder: Path, dtype: str, dense: Path | None = None) -> EvaluationJob:
    (folder / "text.txt").write_text(tiny_text(), encoding="utf-8")
    return EvaluationJob(directory, dense, {"text": folder / "text.txt"}, CPU, dtype=dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_perplexity(llama_directory: Path, tmp_path: Path, dtype: str) -> None:
    compress(llama_directory, "svd", {"rank": 5}, "ffn", tmp_path)
    spec = Perplexity(kind="perplexity", corpus="t", window=64, max_windows=4)
    half, whole = (
        perplexity.evaluate(job(tmp_path / "out", tmp_path, each), spec)
        for each in (dtype, "float32")
    )
    assert half[0].value != whole[0].value
    assert half[0].value == pytest.approx(whole[0].value, rel=0.01)
    assert half[0].protocol != whole[0].protocol
    own = spec.model_copy(update={"dtype": dtype})
    assert own.runs_in("float32") == dtype


def test_tasks_that_look_inside(llama_directory: Path, moe_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "svd").mkdir()
    compress(moe_directory, "svd", {"rank": 5}, "experts", tmp_path / "svd")
    plain = job(llama_directory, tmp_path, HALF[0])
    looked: list[tuple[Any, Any, EvaluationJob]] = [
        (generation, Generation(kind="generation", new_tokens=4), plain),
        (super_weights, SuperWeights(kind="super_weights"), plain),
        (
            moe,
            MoeDiagnostics(kind="moe", corpus="t", window=32, max_windows=2),
            job(tmp_path / "svd/out", tmp_path, HALF[0], moe_directory),
        ),
    ]  # fmt: skip
    for task, spec, given in looked:
        rows = task.evaluate(given, spec)
        assert all("bfloat16" in row.version for row in rows), spec.kind
        assert all(torch.isfinite(torch.tensor(row.value)) for row in rows)


def test_recovery(llama_directory: Path, tmp_path: Path) -> None:
    architecture, _, _ = compress(llama_directory, "svd", {"rank": 5}, "attention", tmp_path)
    spec = Adapters(
        train="adapters", rank=2, steps=4, accumulation=1, batch=6, window=16, learning_rate=0.02
    )
    half, whole = (
        recover(load_model(tmp_path / "out", CPU, dtype), architecture, WINDOWS, spec, 0, CPU)
        for dtype in (torch.bfloat16, torch.float32)
    )
    for path, store in whole.items():
        dense = half[path].dense(0)
        assert dense.dtype == torch.float32
        change = float((dense - store.dense(0)).norm() / store.dense(0).norm())
        assert change < 0.5, path


def plan(**changes: Any) -> Plan:
    params = copy.deepcopy(tiny_params())
    params["models"]["tiny"]["baseline_tasks"] = ["spectra"]
    params["tasks"]["spectra"] = {"kind": "heterogeneity"}
    for section, values in changes.items():
        params[section] = {**params.get(section, {}), **values}
    return Plan(parse(params))


def test_keys_follow_where_it_matters(inputs: Path) -> None:
    usual, same, half = plan(), plan(compute={"dtype": "float32"}), plan(compute={"dtype": HALF[0]})
    assert live_paths(same) == live_paths(usual)
    assert live_paths(half)["fetch"] == live_paths(usual)["fetch"]
    assert not {*live_paths(half)["calibrate"]} & {*live_paths(usual)["calibrate"]}
    shared = {*half.evaluations} & {*usual.evaluations}
    kinds = {usual.evaluations[each].spec.kind for each in shared}
    assert kinds == {"heterogeneity"}
    assert {e.dtype for e in half.evaluations.values()} == {"bfloat16", "float32"}
    own = plan(tasks={"heldout": {**tiny_params()["tasks"]["heldout"], "dtype": "float16"}})
    perplexities = [e for e in own.evaluations.values() if e.task_name == "heldout"]
    assert {e.dtype for e in perplexities} == {"float16"}
