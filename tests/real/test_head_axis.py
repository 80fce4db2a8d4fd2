"""The head axis on a small trained model: TensorLLM's layout against the published reading."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stages import placed

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.evaluation.perplexity import perplexity
from tensorpress.methods.registry import load
from tensorpress.objectives import registry
from tensorpress.objectives.windows import token_windows
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.stages.decomposition import decompose_layer

pytestmark = pytest.mark.real
NEXT_TOKEN = registry.load("causal_lm")
MODULES = ("attention.q", "attention.k", "attention.v", "attention.o")


def run(
    model: Path, text: str, layout: str, saved: float, folder: Path
) -> tuple[float, float, int]:
    """Relative error of all attention weights, perplexity, and stored bits."""
    folder.mkdir()
    spec = load("tucker_qkvo").Spec(method="tucker_qkvo", layout=layout, budget={"saved": saved})
    placements, error, total = [], 0.0, 0.0
    for layer in range(Checkpoint.open(model).architecture.layers):
        factors, _, weights = decompose_layer(model, spec, "attention", layer, None, CPU)
        save_factors(factors, folder / f"{layer}.safetensors")
        placements.append(placed(layer, MODULES, spec, folder / f"{layer}.safetensors"))
        for each in factors:
            for index, module in enumerate(each.modules):
                weight = weights[module].double()
                error += float((each.store.dense(index).double() - weight).square().sum())
                total += float(weight.square().sum())
    storage, _ = assemble(model, placements, "float32", folder / "out")
    tokenizer = load_tokenizer(folder / "out")
    windows = token_windows(tokenizer, text, 512, 40)
    result = perplexity(load_model(folder / "out", CPU), NEXT_TOKEN, windows, 8, CPU)
    return (error / total) ** 0.5, result.perplexity, storage.stored_bits


def test_right_layout_errs_less_and_says_more(shared: Path, tmp_path: Path) -> None:
    model = shared / "models/stories260K"
    text = (shared / "data/tinystories_val.txt").read_text(encoding="utf-8")[:200_000]
    for saved in (0.2, 0.4):
        right, published = (
            run(model, text, layout, saved, tmp_path / f"{layout}-{saved}")
            for layout in ("tensorllm", "published")
        )
        print(f"{saved}: tensorllm {right}, published {published}")
        assert right[2] == pytest.approx(published[2], rel=0.02)
