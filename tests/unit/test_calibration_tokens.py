"""What calibration really read is said, and stands on everything that was made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.stages import FFN, LAYER, calibrated
from support.workspace import tiny_text, tiny_tokenizer

from tensorpress import calibration, paths
from tensorpress.assembly import LayerFactors, assemble
from tensorpress.calibration import calibration_windows
from tensorpress.checkpoint import Checkpoint
from tensorpress.decomposition import decompose_layer, measure
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.specs import Prediction
from tensorpress.evaluation.tasks import prediction
from tensorpress.factorfile import save_factors
from tensorpress.families.table import family_of
from tensorpress.manifest import MANIFEST, Provenance, write_manifest
from tensorpress.moments import save_moments
from tensorpress.params import Calibration
from tensorpress.registry import load
from tensorpress.rows import DecompositionRow, read_rows, write_rows

CPU = torch.device("cpu")


def test_tokens_that_the_text_does_not_have_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(calibration, "warn", said.append)
    tokenizer, text = tiny_tokenizer(), tiny_text()
    enough = Calibration(corpus="text", tokens=130, window=64)
    assert calibration_windows(tokenizer, text, enough).shape == (3, 64)
    assert said == []
    short = "é" * 100  # 200 tokens
    wanted = Calibration(corpus="text", tokens=65536, window=64)
    assert calibration_windows(tokenizer, short, wanted).shape == (3, 64)
    assert said == [
        "calibration.tokens: 65536 are wanted, corpus 'text' has 192 in whole windows of 64: these "
        "are used"
    ]


@pytest.mark.parametrize("method", ["svd", "dense"])
def test_what_was_read_is_recorded(llama_directory: Path, tmp_path: Path, method: str) -> None:
    windows = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(0))
    save_moments(calibrated(llama_directory, windows, 2), windows.numel(), tmp_path / "moments")
    settings = {"rank": 4, "whiten": "input"} if method == "svd" else {}
    spec = load(method).Spec(method=method, **settings)
    file = paths.moments(tmp_path / "moments", LAYER) if spec.needs_moments else None
    config = Checkpoint.open(llama_directory).config
    family = family_of(config, "test")
    shapes = family.layer_shape(config, LAYER).modules
    found, seconds, weights = decompose_layer(
        llama_directory, family, spec, "ffn", LAYER, file, CPU
    )
    labels = {"model": "m", "method_name": method, "method": method, "group": "ffn"}
    rows = measure(found, weights.matrices, shapes, labels, LAYER, seconds, file)
    factors, table = tmp_path / "factors.safetensors", tmp_path / "factors.parquet"
    save_factors(found, factors)
    write_rows(rows, DecompositionRow, table)
    expected = 48 if method == "svd" else None
    assert {row.calibration_tokens for row in read_rows([table], DecompositionRow)} == {expected}
    run = tmp_path / "run"
    assemble(llama_directory, family, [LayerFactors(LAYER, FFN, factors)], "float32", run)
    write_manifest([Provenance(LAYER, FFN, method, settings, factors, table)], "float32", run)
    entries = json.loads((run / MANIFEST).read_text())["modules"]
    assert [entry["calibration_tokens"] for entry in entries] == [expected] * 3
    job = EvaluationJob(run, llama_directory, {}, CPU, moments_directory=tmp_path / "moments")
    predicted = prediction.evaluate(job, Prediction(kind="prediction"))
    assert {row.version for row in predicted} == {"moments of 48 tokens"}
