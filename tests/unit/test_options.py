"""Options of advice: one factorisation serves sizes, and which of them are tried."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.advice import found_in

from tensorpress.analysis.knapsack import GAP, choose
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import gradient_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.moments import save_moments
from tensorpress.methods import svd
from tensorpress.methods.advised import Spec
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import load
from tensorpress.running.oom import CPU
from tensorpress.stages import options as stage
from tensorpress.stages.calibration import calibrate
from tensorpress.stages.options import attempts, sizes_up_to


def test_one_factorisation_serves_all_sizes(
    llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gives is what the method gives for each size alone."""
    checkpoint = Checkpoint.open(llama_directory)
    shape = checkpoint.architecture.shape(0)
    asked: list[MethodSpec] = []
    alone = svd.decompose
    monkeypatch.setattr(svd, "decompose", lambda *given: asked.append(given[2]) or alone(*given))
    for attempt in attempts(shape, ("svd",)):
        own = {m: checkpoint.weight(0, m) for m in attempt.shape.modules}
        roots = {m: torch.randn(100, w.shape[-1]) for m, w in own.items()}
        inputs = {m: x.mT @ x for m, x in roots.items()}
        inputs |= {gradient_of(m): torch.rand(w.shape[0]) for m, w in own.items()}
        asked.clear()
        fit = sizes_up_to(attempt, own, inputs)
        assert len(attempt.specs) > 5
        for spec in attempt.specs:
            (made,) = fit(spec)
            (expected,) = alone(own, attempt.shape, spec, inputs)
            torch.testing.assert_close(made.store.stacked(), expected.store.stacked())
        assert len(asked) == 1


def test_sizes_that_are_passed_over_would_not_be_chosen(
    llama_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trains and Tuckers of weights without structure are worse than the SVD from the start."""
    model, checkpoint = load_model(llama_directory, CPU), Checkpoint.open(llama_directory)
    windows = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
    layers = calibrate(model, checkpoint.architecture, windows, 4, CPU)
    save_moments(layers, windows.numel(), tmp_path / "moments")
    methods = ("svd", "tt", "tucker_ffn", "tucker_qkvo")
    tried = found_in(llama_directory, tmp_path, 0, methods)
    monkeypatch.setattr(stage, "least_damage", lambda *_: math.inf)
    every = found_in(llama_directory, tmp_path, 0, methods)
    assert len(tried) < len(every)
    decomposed = [[c for c in found if c.method != "rounding"] for found in (tried, every)]
    dense = sum(c.dense_bits for c in every if c.method == "dense")
    for saved in (0.1, 0.3, 0.5, 0.7):
        for some, all_of_them in ((tried, every), decomposed):
            damage, least = (
                sum(c.damage for c in choose(found, int((1 - saved) * dense)))
                for found in (some, all_of_them)
            )
            assert damage <= least * (1 + GAP)


def test_sizes_that_only_weights_tell_are_all_tried(moe_directory: Path) -> None:
    """Factors of TD-MoE are often smaller than its layout, beside which others look as small."""
    shape = Checkpoint.open(moe_directory).architecture.shape(0)
    for method, known in (("svd", True), ("td_moe", False)):
        for attempt in attempts(shape, (method,)):
            assert all((attempt.bits(spec, 16) is not None) == known for spec in attempt.specs)


def test_a_smaller_size_may_have_a_larger_rank_of_one_mode() -> None:
    """Ranks that fill a budget one by one do not all fall with it."""
    shapes = {module: ModuleShape(7, 13) for module in ("ffn.gate", "ffn.up")}
    layer = LayerShape(13, 1, 1, 13, {**shapes, "ffn.down": ModuleShape(13, 7)})
    torch.manual_seed(0)
    weights = {m: torch.randn(s.out_features, s.in_features) for m, s in layer.modules.items()}
    (attempt,) = attempts(layer, ("tucker_ffn",))
    first = [spec.layouts(layer, "ffn")[0].settings["out_rank"] for spec in attempt.specs]
    assert first != sorted(first, reverse=True)
    moments = {m: torch.eye(w.shape[1]) for m, w in weights.items()}
    moments |= {gradient_of(m): torch.ones(w.shape[0]) for m, w in weights.items()}
    fit = sizes_up_to(attempt, weights, moments)
    assert [fit(s)[0].store.settings["out_rank"] for s in attempt.specs] == first


def test_pruning_and_hybrids_are_tried_where_they_fit() -> None:
    """A rank of 8 takes 896 of the 3072 values, 4 bits with their scales 816."""
    methods = ("sparse", "sparse_plus_low_rank", "quantised_plus_correction")
    assert Spec(method="advised", saved=0.5, methods=methods).methods == methods
    shape = LayerShape(48, 1, 1, 48, {"ffn.up": ModuleShape(64, 48)})
    tried = {
        attempt.specs[0].method: [spec.budget.saved for spec in attempt.specs]
        for attempt in attempts(shape, methods)
    }
    sizes = [step / 10 for step in range(1, 10)]
    assert list(tried.values()) == [sizes, sizes[:7], sizes[:6]]
    assert list(tried) == list(methods)


def all_sizes(
    method: str, directory: Path
) -> Iterator[tuple[dict[str, torch.Tensor], Factors, Factors]]:
    """The weights of each factor set of a layer, its factors among all sizes, and those alone."""
    checkpoint = Checkpoint.open(directory)
    torch.manual_seed(0)
    for attempt in attempts(checkpoint.architecture.shape(0), (method,)):
        own = {m: checkpoint.weight(0, m) for m in attempt.shape.modules}
        inputs = {m: torch.randn(100, w.shape[-1]) for m, w in own.items()}
        moments = {m: x.mT @ x for m, x in inputs.items()}
        moments |= {gradient_of(m): torch.rand(w.shape[0]) for m, w in own.items()}
        given = moments if attempt.specs[0].needs_moments else None
        fit = sizes_up_to(attempt, own, given)
        assert len(attempt.specs) > 4
        for spec in attempt.specs:
            made = fit(spec)
            expected = load(method).decompose(own, attempt.shape, spec, given)
            for each, alone in zip(made, expected, strict=True):
                assert each.store.settings == alone.store.settings
                yield own, each, alone


def test_trains_among_all_sizes_are_those_alone(llama_directory: Path) -> None:
    for _, each, alone in all_sizes("tt", llama_directory):
        torch.testing.assert_close(
            each.store.stacked(), alone.store.stacked(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("method", ["tucker_ffn", "tucker_qkvo"])
def test_tucker_among_all_sizes_errs_as_alone(method: str, llama_directory: Path) -> None:
    """It is swept less."""
    for own, each, alone in all_sizes(method, llama_directory):
        weights = torch.stack([own[module] for module in each.modules])
        off = [float((f.store.stacked().view_as(weights) - weights).norm()) for f in (each, alone)]
        assert off[0] == pytest.approx(off[1], rel=0.01)
