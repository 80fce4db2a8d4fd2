"""Mixtures before and after: closed forms, routers of three families, planted changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.families import SIZES
from support.geometry import compressed, job
from support.stages import ask, calibrated
from support.workspace import save_tiny, tiny_moe, tiny_text
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.analysis.moe import (
    agreement,
    assignment_kl_nats,
    band_widths,
    divergence_nats,
    drift,
    entropy_nats,
    pairwise_overlap,
    right_bands,
    squared_cosine,
    without_tokens,
)
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.moe import Spec as MoeDiagnostics
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.mixture import expert_matrices, observe, router_of
from tensorpress.evaluation.tasks import moe
from tensorpress.report import wording
from tensorpress.running.oom import CPU
from tensorpress.stages import calibration

SPEC = MoeDiagnostics(kind="moe", corpus="text", window=32, max_windows=6, batch=4)
TOKENS, EXPERTS, CHOSEN = 6 * 32, 4, 2
HEAD_OF_ACTIVATIONS = ("head_alignment", "router.activations")


def planted(directions: torch.Tensor, values: list[float], rows: int, seed: int) -> torch.Tensor:
    """A matrix whose right singular vectors are the columns of ``directions``."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, len(values), generator=generator).double())
    return (left * torch.tensor(values)) @ directions.mT


def test_bands_are_one_and_ten_percent() -> None:
    assert band_widths(768) == (8, 69)
    assert band_widths(24) == (1, 1)
    basis, _ = torch.linalg.qr(torch.randn(40, 6).double())
    matrix = planted(basis, [6, 5, 4, 3, 2, 1], 30, 0)
    head, tail = right_bands(matrix.float(), 30)
    assert (head.shape, tail.shape) == ((40, 1), (40, 2))
    assert float((head[:, 0] @ basis[:, 0]).abs()) == pytest.approx(1, abs=1e-6)
    assert float((tail.mT @ basis[:, 1:3]).square().sum()) == pytest.approx(2, abs=1e-6)


def test_directions_that_do_not_exist_overlap_with_nothing() -> None:
    basis, _ = torch.linalg.qr(torch.randn(40, 2).double())
    head, tail = right_bands(planted(basis, [2, 1], 30, 0).float(), 30)
    assert float(head.square().sum()) == pytest.approx(1)
    assert float(tail.square().sum()) == pytest.approx(1)  # of two directions, one is left
    zero = right_bands(torch.zeros(30, 40), 30)
    assert all(not band.any() for band in zero)
    few_tokens = right_bands(torch.randn(2, 40), 40)
    assert float(few_tokens[1].square().sum()) == pytest.approx(1)


def test_overlap_of_equal_orthogonal_and_random_subspaces() -> None:
    basis, _ = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    first, second = basis[:, :4], basis[:, 4:]
    found = pairwise_overlap(torch.stack([first, second, first.roll(1, 1)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    many, _ = torch.linalg.qr(torch.randn(40, 64, 4, generator=torch.Generator().manual_seed(1)))
    assert len(pairwise_overlap(many)) == 40 * 39 / 2
    assert float(pairwise_overlap(many).mean()) == pytest.approx(4 / 64, rel=0.05)


def test_router_row_in_and_out_of_a_subspace() -> None:
    basis = torch.eye(4)[:, :2].double()
    assert float(squared_cosine(torch.tensor([3.0, 0, 0, 0]), basis)) == 1
    assert float(squared_cosine(torch.tensor([0, 0, 0, 2.0]), basis)) == 0
    assert float(squared_cosine(torch.tensor([3.0, 0, 4.0, 0]), basis)) == pytest.approx(9 / 25)


def test_drift_is_relative() -> None:
    weight = torch.randn(5, 6)
    assert drift(weight, weight) == 0
    assert drift(weight, 1.5 * weight) == pytest.approx(0.5)
    assert drift(weight, torch.zeros(5, 6)) == 1


def test_agreement_counts_sets_and_not_places() -> None:
    before = torch.tensor([[0, 1], [0, 1], [0, 1]])
    jaccard, exact = agreement(before, torch.tensor([[1, 0], [1, 2], [2, 3]]))
    assert jaccard.tolist() == pytest.approx([1, 1 / 3, 0])
    assert exact.tolist() == [True, False, False]


def test_divergences() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    even = torch.tensor([[0.5, 0.5]])
    assert float(divergence_nats(one, one)) == 0
    assert float(divergence_nats(one, other)) == pytest.approx(math.log(2))
    assert float(entropy_nats(even)) == pytest.approx(math.log(2))
    assert float(entropy_nats(one)) == 0
    used, moved = torch.tensor([[0]] * 6), torch.tensor([[1]] * 6)
    assert assignment_kl_nats(used, used, 2) == 0
    # counts 6 and 0, with one added 7 and 1
    assert assignment_kl_nats(used, moved, 2) == pytest.approx(6 / 8 * math.log(7))


def save_family(name: str, folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=96, **SIZES[name])
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):  # zero at first, and then a lost bias would not show
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "gpt_oss", "qwen2_moe", "olmoe"])
def test_the_router_of_every_family_is_seen(name: str, tmp_path: Path) -> None:
    model = save_family(name, tmp_path)
    architecture = Checkpoint.open(tmp_path).architecture
    assert architecture.expert_layers == (0, 1)
    assert all((s.experts, s.hidden_size) == (EXPERTS, 32) for s in map(architecture.shape, (0, 1)))
    read: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    said: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def listen(layer: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple, output: tuple) -> None:
            read[layer].append(inputs[0])
            said[layer].append(output[0].softmax(-1))

        return hook

    routers = [router_of(model, architecture, layer) for layer in architecture.expert_layers]
    for layer, router in enumerate(routers):
        router.register_forward_hook(listen(layer))
    windows = torch.randint(96, (3, 16), generator=torch.Generator().manual_seed(0))
    views = observe(model, architecture, windows, 2, CPU)
    for layer, view in enumerate(views):
        torch.testing.assert_close(view.probabilities, torch.cat(said[layer]))
        (head,) = (b for b in view.bands if (b.metric, b.module) == HEAD_OF_ACTIVATIONS)
        used = view.chosen.unique().tolist()
        for expert, value in zip(used, head.values.tolist(), strict=True):
            received = torch.cat(read[layer])[(view.chosen == expert).any(1)]
            leading = torch.linalg.svd(received.double()).Vh[0]
            row = routers[layer].weight[expert].detach().double()
            assert value == pytest.approx(float((row @ leading / row.norm()) ** 2), rel=1e-4)
        best = view.probabilities.topk(CHOSEN).indices
        assert torch.equal(best.sort().values, view.chosen.sort().values)
        for module, matrix in expert_matrices(model, architecture, layer).items():
            shape = architecture.shape(layer).modules[module]
            assert matrix(3).shape == (shape.out_features, shape.in_features)
        for band in view.bands:
            assert torch.isfinite(band.values).all()
            assert 0 < float(band.values.mean()) < 1


def test_a_block_without_router_is_an_error(moe_directory: Path) -> None:
    model = load_model(moe_directory, CPU)
    architecture = Checkpoint.open(moe_directory).architecture
    model.model.layers[1].mlp.gate = torch.nn.Identity()
    with pytest.raises(TensorpressError, match="no router beside the experts of layer 1"):
        router_of(model, architecture, 1)


def table(rows: list[EvalRow]) -> dict[tuple[int | None, str, str], float]:
    """Values by layer, module with its expert, and metric with statistic and state."""
    found = {}
    for row in rows:
        part = ".".join(str(name) for name in (row.module, row.expert) if name is not None)
        metric = "_".join(name for name in (row.metric, row.statistic, row.state) if name)
        found[row.layer, part, metric] = row.value
    assert len(found) == len(rows)
    return found


def test_equal_models_agree_in_everything(moe_directory: Path, tmp_path: Path) -> None:
    found = table(moe.evaluate(job(moe_directory, moe_directory, tmp_path), SPEC))
    for layer in (0, 1):
        router = {metric: v for (at, part, metric), v in found.items()
                  if at == layer and part == "router"}  # fmt: skip
        assert router["jaccard"] == router["exact_agreement"] == 1
        assert router["jsd_nats"] == pytest.approx(0, abs=1e-12)
        assert router["assignment_kl_nats"] == router["entropy_change_nats"] == 0
        assert 0 < router["entropy_nats_dense"] < math.log(EXPERTS)
    for (layer, part, metric), value in found.items():
        if metric == "drift":
            assert value == 0
        if metric.endswith("_dense"):
            assert value == found[layer, part, metric.replace("_dense", "_compressed")]
    drifts = {part for _, part, metric in found if metric == "drift"}
    assert drifts == {f"experts.{p}.{e}" for p in ("gate", "up", "down") for e in range(EXPERTS)}


@pytest.fixture(scope="module")
def idle_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of six experts whose last two get no token: two of ``+-v, +-u`` are above them."""
    model = tiny_moe()
    config = copy.deepcopy(model.config)
    config.num_experts = 6
    torch.manual_seed(0)
    model = type(model)(config)
    with torch.no_grad():
        for layer in model.model.layers:
            v, u, spare = torch.randn(32), torch.randn(32), 1e-6 * torch.randn(2, 32)
            layer.mlp.gate.weight.copy_(torch.stack([v, -v, u, -u, *spare]))
    return save_tiny(model, tmp_path_factory.mktemp("models") / "idle")


def test_experts_without_tokens_are_named(idle_directory: Path, tmp_path: Path) -> None:
    rows = moe.evaluate(job(idle_directory, idle_directory, tmp_path), SPEC)
    idle = [row for row in rows if row.metric == "experts_without_tokens"]
    assert [(row.state, row.layer) for row in idle] == [
        ("dense", 0), ("compressed", 0), ("dense", 1), ("compressed", 1),
    ]  # fmt: skip
    assert {(row.value, row.text, row.samples) for row in idle} == {(2, "4-5", TOKENS)}
    assert without_tokens(torch.tensor([[0, 2], [2, 4]]), 6) == [1, 3, 5]


def test_calibration_names_experts_without_tokens(
    idle_directory: Path, moe_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(calibration, "warn", said.append)
    windows = torch.arange(64).view(4, 16)
    calibrated(moe_directory, windows.repeat(8, 1), 4)
    assert said == []
    found = calibrated(idle_directory, windows, 2)
    assert found[0]["experts.gate.tokens"][4:].tolist() == [0, 0]
    assert said == [
        f"calibrate: layer {layer}: 2 of 6 experts (4-5) received no token of the text: "
        "their moments are zero"
        for layer in (0, 1)
    ]


def test_the_page_names_experts_without_tokens(whole: dict[str, Path]) -> None:
    rows = ask("idle_experts", whole)
    assert set(rows["run"]) == {"td_moe two"}
    first, *others = wording.idle_experts(rows)
    assert len(others) == len(rows) - 1 == 3
    assert first.startswith(
        "Layer 0 of the run <code>td_moe two</code>: 4 experts (4, 7-9) received none of the 512"
    )
    assert wording.idle_experts(rows[:0]) == ["Every expert received tokens, before and after."]
    assert not ask("moe", whole)["measure"].str.contains("without").any()


def test_a_permuted_router_disagrees(moe_directory: Path, tmp_path: Path) -> None:
    model = tiny_moe()
    with torch.no_grad():
        gate = model.model.layers[1].mlp.gate.weight
        gate.copy_(gate.roll(1, 0).clone())
    permuted = save_tiny(model, tmp_path / "permuted")
    rows = moe.evaluate(job(moe_directory, permuted, tmp_path), SPEC)
    found = table(rows)
    assert found[0, "router", "jaccard"] == 1
    # two of four shifted by one share one expert if they are neighbours, none if they are not
    dense, shifted = (
        observe(load_model(folder, CPU), Checkpoint.open(moe_directory).architecture,
                moe.token_windows(moe.load_tokenizer(permuted), tiny_text(), 32, 6), 4, CPU)[1]
        for folder in (moe_directory, permuted)
    )  # fmt: skip
    assert torch.equal(((dense.chosen + 1) % EXPERTS).sort().values, shifted.chosen.sort().values)
    apart = (dense.chosen[:, 0] - dense.chosen[:, 1]).abs() == 2
    expected = float((~apart).double().mean()) / 3
    assert found[1, "router", "jaccard"] == pytest.approx(expected)
    assert found[1, "router", "exact_agreement"] == 0
    assert found[1, "router", "jsd_nats"] > 1e-5
    assert found[1, "router", "entropy_change_nats"] == pytest.approx(0, abs=1e-6)
    assert found[1, "experts.gate.0", "drift"] == 0
    counts = torch.bincount(dense.chosen.flatten(), minlength=EXPERTS).double() + 1
    share = counts / counts.sum()
    kl = float((share * (share / share.roll(1)).log()).sum())
    assert found[1, "router", "assignment_kl_nats"] == pytest.approx(kl)
    (samples,) = {r.samples for r in rows if r.metric == "jaccard"}
    assert samples == TOKENS


def test_experts_that_differ_only_inside_overlap_fully(moe_directory: Path, tmp_path: Path) -> None:
    model = tiny_moe()
    inner = torch.linalg.qr(torch.randn(EXPERTS, 24, 24)).Q
    with torch.no_grad():
        experts = model.model.layers[0].mlp.experts
        gate_up, down = experts.gate_up_proj[0].clone(), experts.down_proj[0].clone()
        for e, turn in enumerate(inner):
            experts.gate_up_proj[e] = torch.cat([turn @ part for part in gate_up.chunk(2)])
            experts.down_proj[e] = down @ turn
        model.model.layers[1].mlp.experts.down_proj[1] *= 3
        head, _ = right_bands(gate_up, 32)
        model.model.layers[0].mlp.gate.weight[2] = head[:, 0]
    planted_model = save_tiny(model, tmp_path / "planted")
    found = table(moe.evaluate(job(moe_directory, planted_model, tmp_path), SPEC))
    for module in ("experts.gate", "experts.up", "experts.down"):
        for band in ("head", "tail"):
            after = found[0, module, f"{band}_overlap_compressed"]
            assert after == pytest.approx(1, abs=1e-4)
            assert found[0, module, f"{band}_overlap_dense"] < 0.5
            assert found[0, module, f"{band}_overlap_random"] == 1 / 32
    assert found[1, "experts.down.1", "drift"] == pytest.approx(2, rel=1e-5)
    assert found[1, "experts.down.0", "drift"] == 0
    aligned = found[0, "router.weights", "head_alignment_max_compressed"]
    assert aligned == pytest.approx(1, abs=1e-4)
    assert found[0, "router.weights", "head_alignment_random"] == 1 / 32


def test_compressed_checkpoints(moe_directory: Path, tmp_path: Path, loaded_models) -> None:
    svd = compressed(moe_directory, "svd", {"rank": 1}, "experts", tmp_path / "svd")
    found = table(moe.evaluate(job(moe_directory, svd, tmp_path), SPEC))
    assert len(loaded_models) == 2
    # the best rank-1 matrix keeps the head, has no tail, and drifts by the rest of the spectrum
    for module in ("experts.gate", "experts.down"):
        head = found[1, module, "head_overlap_dense"]
        assert found[1, module, "head_overlap_compressed"] == pytest.approx(head, abs=1e-4)
        assert found[1, module, "tail_overlap_compressed"] == 0
    dense = load_model(moe_directory, CPU)
    weight = dense.model.layers[1].mlp.experts.down_proj[2].detach()
    values = torch.linalg.svdvals(weight.double())
    rest = float(1 - values[0] ** 2 / values.square().sum()) ** 0.5
    assert found[1, "experts.down.2", "drift"] == pytest.approx(rest, rel=1e-5)
    assert found[0, "experts.down.2", "drift"] == 0

    loaded_models.clear()
    dropped = compressed(moe_directory, "drop", {}, "experts", tmp_path / "drop")
    found = table(moe.evaluate(job(moe_directory, dropped, tmp_path), SPEC))
    assert found[1, "experts.up.0", "drift"] == 1
    assert found[1, "experts.up", "head_overlap_compressed"] == 0
    assert found[1, "router.weights", "head_alignment_compressed"] == 0
    assert found[1, "router", "jaccard"] == 1  # the last layer's router sees nothing of it
