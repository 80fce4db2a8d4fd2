"""Activation geometry: closed forms, the points of every family, and what memory holds."""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.families import CAUSAL, SIZES
from support.geometry import compressed, job
from support.workspace import save_tiny, tiny_llama, tiny_text
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.analysis.geometry import DELTAS, MEASURES, POINTS, compare, summarise, with_deltas
from tensorpress.architectures.families.table import architecture_of
from tensorpress.checkpoints.loading import load_model
from tensorpress.config.tasks.geometry import Spec as Geometry
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.activations import scratch, stream_points
from tensorpress.evaluation.tasks import geometry
from tensorpress.running.oom import CPU

SPEC = Geometry(kind="geometry", corpus="text", window=32, max_windows=5, batch=2)
TOKENS = 5 * 32


def measures(original: torch.Tensor, compressed: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(MEASURES, compare(original, compressed), strict=True))


def test_equal_scaled_and_orthogonal_vectors() -> None:
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    equal, scaled = measures(x, x), measures(x, -2 * x)
    assert torch.equal(equal["cosine"], torch.ones(50, dtype=torch.float64))
    assert torch.equal(equal["angle_degrees"], torch.zeros(50, dtype=torch.float64))
    assert torch.equal(equal["relative_difference"], torch.zeros(50, dtype=torch.float64))
    assert torch.equal(equal["norm_ratio"], torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(scaled["norm_ratio"], 2 * equal["norm_ratio"])
    torch.testing.assert_close(scaled["cosine"], -equal["cosine"])
    torch.testing.assert_close(scaled["relative_difference"], 3 * equal["norm_ratio"])
    torch.testing.assert_close(scaled["norm_compressed"], 2 * x.double().norm(dim=1))
    right = measures(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
    assert float(right["angle_degrees"]) == pytest.approx(90)
    assert float(right["cosine"]) == pytest.approx(0, abs=1e-15)
    assert float(right["relative_difference"]) == pytest.approx(5 / 3)


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 1.0, math.pi - 1e-6])
def test_angles_keep_their_digits(angle: float) -> None:
    turned = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    found = measures(torch.tensor([[1.0, 0.0]]), turned)["angle_degrees"]
    assert float(found) == pytest.approx(math.degrees(angle), rel=1e-9)


def test_zero_vectors_have_no_direction() -> None:
    x, zero = torch.ones(1, 4), torch.zeros(1, 4)
    dropped, new = measures(x, zero), measures(zero, x)
    assert dropped["cosine"].isnan().all()
    assert dropped["angle_degrees"].isnan().all()
    assert float(dropped["norm_ratio"]) == 0
    assert float(dropped["relative_difference"]) == 1
    assert new["norm_ratio"].isnan().all()
    assert new["relative_difference"].isnan().all()
    assert float(new["norm_compressed"]) == 2


def test_summary_leaves_the_meaningless_out() -> None:
    summary = summarise(torch.tensor([4.0, math.nan, 1.0, 2.0, 3.0]))
    assert summary is not None
    assert (summary.mean, summary.median, summary.tokens) == (2.5, 2.5, 4)
    assert summary.deviation == pytest.approx(math.sqrt(1.25))
    assert summarise(torch.tensor([math.nan])) is None


def stream(model: torch.nn.Module, consume: Callable[..., None], batch: int = 2) -> torch.Tensor:
    architecture = architecture_of(model.config.to_dict(), "test")
    ids = torch.randint(96, (3, 16), generator=torch.Generator().manual_seed(0))
    stream_points(model.eval(), architecture, ids, batch, CPU, consume)
    return ids


FAMILY_CASES = [*((name, {}) for name in CAUSAL), ("gpt_neox", {"use_parallel_residual": False})]


@pytest.mark.parametrize(("name", "extra"), FAMILY_CASES)
def test_points_of_every_family_add_up(name: str, extra: dict) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=96, **SIZES[name], **extra)
    model = AutoModelForCausalLM.from_config(config)
    found: dict[int, list[dict[str, torch.Tensor]]] = {0: [], 1: []}
    seen = []

    def consume(places: slice, layer: int, points: dict[str, torch.Tensor]) -> None:
        seen.append((places.start, places.stop, layer))
        found[layer].append(points)

    stream(model, consume)
    assert seen == [(0, 32, 0), (0, 32, 1), (32, 48, 0), (32, 48, 1)]
    layers = [{point: torch.cat([p[point] for p in parts]) for point in POINTS}
              for parts in found.values()]  # fmt: skip
    torch.testing.assert_close(layers[1]["layer_input"], layers[0]["layer_output"])
    for index, points in enumerate(layers):
        assert all(points[point].shape == (48, 32) for point in POINTS)
        deltas = with_deltas(points)
        attention, ffn = points["attention_output"], points["ffn_output"]
        if name in ("gemma2", "gemma3_text"):  # norms stand between blocks and residual stream
            block = model.model.layers[index]
            attention = block.post_attention_layernorm(attention).detach()
            ffn = block.post_feedforward_layernorm(ffn).detach()
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(deltas["attention_delta"].float(), attention, **close)
        torch.testing.assert_close(deltas["ffn_delta"].float(), ffn, **close)
        both = deltas["attention_delta"] + deltas["ffn_delta"]
        torch.testing.assert_close(deltas["layer_delta"], both)
        assert attention.norm() > 0
        assert ffn.norm() > 0


def test_streaming_holds_one_layer_of_one_batch() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def consume(places: slice, layer: int, points: dict[str, torch.Tensor]) -> None:
        nonlocal most
        alive.extend(weakref.ref(tensor) for tensor in points.values())
        most = max(most, sum(ref() is not None for ref in alive))

    model = tiny_llama(layers=4)
    stream(model, consume, batch=1)
    assert len(alive) == 3 * 4 * len(POINTS)
    assert most == len(POINTS)
    assert not any(ref() is not None for ref in alive)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_scratch_lies_in_a_file_and_goes_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch(3, 4, 5) as stored:
        stored[:] = 1
        (file,) = tmp_path.glob("*/*")
        assert file.stat().st_size == 4 * stored.numel() == 240
        assert torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32).sum() == 60
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(TensorpressError, match="max_windows: 4194304"),
        scratch(2**50),
    ):
        raise AssertionError("unreachable")


def table(rows: list) -> dict[tuple[int, str, str], float]:
    found = {(r.layer, r.point, f"{r.metric}_{r.statistic}"): r.value for r in rows}
    assert len(found) == len(rows)
    return found


def test_the_same_model_is_where_it_was(llama_directory: Path, tmp_path: Path) -> None:
    rows = geometry.evaluate(job(llama_directory, llama_directory, tmp_path), SPEC)
    found = table(rows)
    assert len(found) == 3 * (len(POINTS) + len(DELTAS)) * len(MEASURES) * 3
    assert {row.samples for row in rows} == {TOKENS}
    exact = {"cosine": 1, "angle_degrees": 0, "norm_ratio": 1, "relative_difference": 0}
    for (_, _, metric), value in found.items():
        measure, _, statistic = metric.rpartition("_")
        if measure in exact:
            expected = 0 if statistic == "deviation" else exact[measure]
            assert value == pytest.approx(expected, abs=1e-12)


def test_a_doubled_projection_doubles_one_output(llama_directory: Path, tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 2
    doubled = save_tiny(model, tmp_path / "doubled")
    found = table(geometry.evaluate(job(llama_directory, doubled, tmp_path), SPEC))
    for point in ("ffn_output", "ffn_delta"):
        assert found[1, point, "norm_ratio_mean"] == pytest.approx(2, rel=1e-4)
        assert found[1, point, "relative_difference_median"] == pytest.approx(1, rel=1e-4)
        assert found[1, point, "cosine_mean"] == pytest.approx(1, abs=1e-8)
    for layer, point in [(0, "layer_output"), (1, "attention_output"), (1, "after_attention")]:
        assert found[layer, point, "cosine_mean"] == pytest.approx(1, abs=1e-12)
        assert found[layer, point, "relative_difference_mean"] == pytest.approx(0, abs=1e-12)
    assert found[2, "layer_input", "relative_difference_mean"] > 1e-3
    # independent of the hooks: what the models themselves return
    windows = geometry.token_windows(geometry.load_tokenizer(doubled), tiny_text(), 32, 5)
    with torch.inference_mode():
        first, second = (
            load_model(folder, CPU)(input_ids=windows, output_hidden_states=True).hidden_states[2]
            for folder in (llama_directory, doubled)
        )
    cosine = torch.cosine_similarity(first.double(), second.double(), dim=-1)
    assert found[2, "layer_input", "cosine_mean"] == pytest.approx(float(cosine.mean()), abs=1e-9)
    ratio = (second.norm(dim=-1) / first.norm(dim=-1)).flatten()
    assert found[2, "layer_input", "norm_ratio_deviation"] == pytest.approx(
        float(ratio.std(correction=0)), rel=1e-3
    )


def test_compressed_checkpoints(llama_directory: Path, tmp_path: Path, loaded_models) -> None:
    dropped = compressed(llama_directory, "drop", {}, "attention", tmp_path)
    found = table(geometry.evaluate(job(llama_directory, dropped, tmp_path), SPEC))
    assert len(loaded_models) == 2
    assert (1, "attention_output", "cosine_mean") not in found
    assert found[1, "attention_output", "norm_ratio_mean"] == 0
    assert found[1, "attention_delta", "relative_difference_mean"] == 1
    assert found[0, "layer_output", "relative_difference_mean"] == pytest.approx(0, abs=1e-6)
    assert 0 < found[2, "layer_output", "cosine_mean"] < 0.9999


def test_an_infinite_activation_is_an_error(llama_directory: Path, tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = math.inf
    broken = save_tiny(model, tmp_path / "broken")
    with pytest.raises(TensorpressError, match="layer 1: ffn_output has NaN or infinite"):
        geometry.evaluate(job(llama_directory, broken, tmp_path), SPEC)
