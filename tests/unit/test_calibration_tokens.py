"""What calibration really read is said, and stands on everything that was made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.stages import FFN, LAYER, calibrated, decomposition, placed
from support.workspace import tiny_text, tiny_tokenizer

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.manifest import MANIFEST, write_manifest
from tensorpress.checkpoints.moments import save_moments
from tensorpress.checkpoints.rows import DecompositionRow, read_rows, write_rows
from tensorpress.config.params import Calibration
from tensorpress.config.tasks.prediction import Spec as Prediction
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import prediction
from tensorpress.files import paths
from tensorpress.methods.registry import load
from tensorpress.objectives import registry
from tensorpress.running.oom import CPU
from tensorpress.stages import calibration
from tensorpress.stages.assembly import assemble
from tensorpress.stages.calibration import calibration_rows
from tensorpress.stages.decomposition import decompose_layer, measure

NEXT_TOKEN = registry.load("causal_lm")


def test_tokens_that_the_text_does_not_have_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(calibration, "warn", said.append)
    tokenizer, text = tiny_tokenizer(), tiny_text()
    enough = Calibration(corpus="text", tokens=130, window=64)
    assert calibration_rows(NEXT_TOKEN, tokenizer, text, enough).shape == (3, 64)
    assert said == []
    short = "é" * 100  # 200 tokens
    wanted = Calibration(corpus="text", tokens=65536, window=64)
    assert calibration_rows(NEXT_TOKEN, tokenizer, short, wanted).shape == (3, 64)
    assert said == [
        "calibration.tokens: 65536 are wanted, corpus 'text' has 192 in whole windows of 64: these "
        "are used"
    ]


def test_windows_begin_as_they_are_asked_to() -> None:
    tokenizer, text = tiny_tokenizer(), tiny_text()
    tokenizer.bos_token = "<end>"
    settings = Calibration(corpus="text", tokens=130, window=64, bos=True)
    begun = calibration_rows(NEXT_TOKEN, tokenizer, text, settings)
    plain = calibration_rows(NEXT_TOKEN, tokenizer, text, Calibration(corpus="text", tokens=130))
    assert begun.shape == (3, 64)
    assert (begun[:, 0] == tokenizer.bos_token_id).all()
    assert begun[:, 1:].flatten().equal(plain.flatten()[: 3 * 63])


@pytest.mark.parametrize("method", ["svd", "dense"])
def test_what_was_read_is_recorded(llama_directory: Path, tmp_path: Path, method: str) -> None:
    windows = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))
    save_moments(calibrated(llama_directory, windows, 2), windows.numel(), tmp_path / "moments")
    settings = {"rank": 4, "whiten": "input"} if method == "svd" else {}
    spec = load(method).Spec(method=method, **settings)
    file = paths.moments(tmp_path / "moments", LAYER) if spec.needs_moments else None
    shapes = Checkpoint.open(llama_directory).architecture.shape(LAYER).modules
    found, seconds, weights = decompose_layer(llama_directory, spec, "ffn", LAYER, file, CPU)
    made = decomposition(spec, "ffn")
    rows = measure(found, weights.matrices, shapes, made, LAYER, seconds, file)
    factors, table = tmp_path / "factors.safetensors", tmp_path / "factors.parquet"
    save_factors(found, factors)
    write_rows(rows, DecompositionRow, table)
    expected = 48 if method == "svd" else None
    assert {row.calibration_tokens for row in read_rows([table], DecompositionRow)} == {expected}
    run = tmp_path / "run"
    placement = placed(LAYER, FFN, spec, factors, table)
    _, sets = assemble(llama_directory, [placement], "float32", run)
    write_manifest(sets, "float32", run)
    entries = json.loads((run / MANIFEST).read_text())["modules"]
    assert [entry["calibration_tokens"] for entry in entries] == [expected] * 3
    job = EvaluationJob(run, llama_directory, {}, CPU, moments_directory=tmp_path / "moments")
    predicted = prediction.evaluate(job, Prediction(kind="prediction"))
    assert {row.version for row in predicted} == {"moments of 48 tokens"}
