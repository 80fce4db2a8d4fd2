"""Running out of memory, planted: less at once, then the CPU, the same numbers, nothing twice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stages import calibrated, compress
from support.workspace import tiny_text

from tensorpress.checkpoints.loading import load_model
from tensorpress.config.recovery import Adapters
from tensorpress.config.tasks.cloze import Spec as Cloze
from tensorpress.config.tasks.geometry import Spec as Geometry
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.evaluation import job as evaluation_job
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import cloze, geometry, perplexity
from tensorpress.linalg import truncated_svd
from tensorpress.methods import svd
from tensorpress.running.job import _warn_into
from tensorpress.running.oom import CPU, is_out_of_memory, warn, with_fallback, with_smaller_batches
from tensorpress.stages.recovery import recover

CUDA = torch.device("cuda")
WINDOWS = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))


def tight(model: Any, most: int) -> Any:
    """A model that has no memory for more than so many windows, from its second pass on."""
    passes = []

    def check(module: Any, args: Any, kwargs: Any) -> None:
        passes.append(len(kwargs["input_ids"]))
        if len(passes) > 1 and passes[-1] > most:
            raise torch.OutOfMemoryError("planted")

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    return model


def test_half_the_batch_until_it_fits() -> None:
    said: list[str] = []

    def run(batch: int) -> int:
        if batch > 2:
            raise torch.OutOfMemoryError("planted")
        return batch

    assert with_smaller_batches("x", run, 11, CUDA, said.append) == 2
    assert len(said) == 2
    with pytest.raises(torch.OutOfMemoryError):
        with_smaller_batches("x", lambda batch: run(3), 4, CUDA, said.append)


def test_then_the_cpu_with_the_whole_batch() -> None:
    attempts: list[tuple[str, int]] = []
    placed: list[str] = []
    said: list[str] = []

    def run(device: torch.device, batch: int) -> int:
        attempts.append((device.type, batch))
        if device.type == "cuda":
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x")
        return batch

    place = lambda device: placed.append(device.type)  # noqa: E731
    assert with_fallback("x", run, CUDA, 4, place, said.append) == 4
    assert attempts == [("cuda", 4), ("cuda", 2), ("cuda", 1), ("cpu", 4)]
    assert placed == ["cuda", "cpu"]
    assert len(said) == 3


def test_a_model_that_does_not_fit_is_not_tried_with_less() -> None:
    attempts: list[tuple[str, int]] = []

    def place(device: torch.device) -> None:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("planted")

    with_fallback("x", lambda d, b: attempts.append((d.type, b)), CUDA, 4, place, print)
    assert attempts == [("cpu", 4)]


def test_the_log_of_the_job_and_its_standard_error_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("tensorpress")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    _warn_into(tmp_path / "logs/x.log")
    warn("x: less")
    assert (tmp_path / "logs/x.log").read_text() == "x: less\n"
    assert capsys.readouterr().err == "x: less\n"


def test_other_errors_are_passed_on() -> None:
    def run(device: torch.device, batch: int) -> None:
        raise RuntimeError("shapes do not match")

    said: list[str] = []
    with pytest.raises(RuntimeError, match="shapes"):
        with_fallback("x", run, CUDA, 4, say=said.append)
    assert not said
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_calibration_counts_nothing_twice(kind: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(f"{kind}_directory")
    whole = calibrated(directory, WINDOWS, 4)
    again = calibrated(directory, WINDOWS, 4, tight(load_model(directory, CPU), 1))
    for layer, tensors in enumerate(whole):
        for name, value in tensors.items():
            torch.testing.assert_close(again[layer][name], value, rtol=1e-4, atol=1e-6)
            if name.endswith(".tokens"):
                assert torch.equal(again[layer][name], value)


@pytest.fixture
def job(llama_directory: Path, tmp_path: Path) -> EvaluationJob:
    (tmp_path / "text.txt").write_text(tiny_text(), encoding="utf-8")
    texts = {"text": tmp_path / "text.txt"}
    return EvaluationJob(llama_directory, llama_directory, texts, CPU)


@pytest.mark.parametrize(
    ("task", "spec"),
    [
        (
            perplexity,
            Perplexity(kind="perplexity", corpus="t", window=32, max_windows=10, batch=4),
        ),
        (cloze, Cloze(kind="cloze", corpus="t", items=12, context_words=8, answer_words=4)),
        (geometry, Geometry(kind="geometry", corpus="t", window=32, max_windows=4, batch=2)),
    ],
    ids=lambda value: value.kind if isinstance(value, Perplexity | Cloze | Geometry) else "",
)
def test_evaluation_gives_the_same_numbers_and_says_so(
    job: EvaluationJob, monkeypatch: pytest.MonkeyPatch, task: Any, spec: Any
) -> None:
    expected = task.evaluate(job, spec)
    assert job.noted(expected) == expected
    load = evaluation_job.load_model
    monkeypatch.setattr(evaluation_job, "load_model", lambda *args: tight(load(*args), 1))
    found = task.evaluate(job, spec)
    assert [row.metric for row in found] == [row.metric for row in expected]
    for row, same in zip(found, expected, strict=True):
        assert row.value == pytest.approx(same.value, rel=1e-4, abs=1e-4)
        assert row.protocol == same.protocol
    assert job.notes
    assert all("out of memory on cpu" in row.version for row in job.noted(found))


def test_a_stack_is_factorised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(5, 9, 12, generator=torch.Generator().manual_seed(0))
    layer = family_layer(5, 9, 12)
    spec = svd.Spec(method="svd", rank=3)
    (whole,) = svd.decompose({"experts.gate": stack}, layer, spec, None)
    kernel, sizes = truncated_svd.truncated_svd, []

    def small(matrices: torch.Tensor, rank: int) -> Any:
        sizes.append(len(matrices))
        if len(matrices) > 2:
            raise torch.OutOfMemoryError("planted")
        return kernel(matrices, rank)

    monkeypatch.setattr(truncated_svd, "truncated_svd", small)
    (parts,) = svd.decompose({"experts.gate": stack}, layer, spec, None)
    assert sizes == [5, 2, 2, 1]
    torch.testing.assert_close(parts.store.stacked(), whole.store.stacked())
    assert parts.lower_bound == pytest.approx(whole.lower_bound)


def family_layer(slices: int, out: int, inner: int) -> Any:
    from tensorpress.architectures.layers import LayerShape, ModuleShape

    shapes = {"experts.gate": ModuleShape(out, inner, slices)}
    return LayerShape(inner, 1, 1, inner, shapes, 0)


def test_recovery_trains_the_same_in_smaller_passes(llama_directory: Path, tmp_path: Path) -> None:
    architecture, _, _ = compress(llama_directory, "svd", {"rank": 5}, "attention", tmp_path)
    spec = Adapters(
        train="adapters", rank=2, steps=3, accumulation=2, batch=4, window=16, learning_rate=0.02
    )
    whole, parts = (
        recover(load_model(tmp_path / "out", CPU), architecture, WINDOWS, spec, 0, CPU, batch)
        for batch in (None, 3)
    )
    for path, store in whole.items():
        torch.testing.assert_close(parts[path].dense(0), store.dense(0), rtol=1e-3, atol=1e-6)
