"""Spectra, overlaps and sharing penalties against closed forms and planted structure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.workspace import tiny_params
from torch import Tensor

from tensorpress.analysis.overlap import mean_overlap, overlap, random_overlap
from tensorpress.analysis.sharing import RESOLUTION, best_ranks, noise_penalties, sharing
from tensorpress.analysis.spectra import (
    Stack,
    decompose,
    effective_rank,
    energy_captured,
    join,
    stable_rank,
    tail_exponent,
)
from tensorpress.architectures.layers import group_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.params import parse
from tensorpress.config.tasks.heterogeneity import Spec as Heterogeneity
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks.heterogeneity import evaluate
from tensorpress.linalg.tucker import hosvd
from tensorpress.running.oom import CPU


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def basis(dimension: int, rank: int) -> Tensor:
    return torch.linalg.qr(torch.randn(dimension, rank, dtype=torch.float64)).Q


def stored_values(sizes: tuple[int, ...], ranks: list[int]) -> int:
    """Core, and a basis for every mode that does not keep its size."""
    bases = [s * r for s, r in zip(sizes, ranks, strict=True) if r < s]
    return math.prod(ranks) + sum(bases)


def penalty(tensor: Tensor, saved: float) -> float:
    (found,) = sharing(tensor, decompose(tensor, 0.5).squares, (saved,))
    return found.penalty


def test_ranks_and_energy_of_an_even_spectrum() -> None:
    even = torch.zeros(2, 12, dtype=torch.float64)
    even[:, :5] = torch.tensor([[1.0], [9.0]])
    assert effective_rank(even).tolist() == pytest.approx([5, 5])
    assert stable_rank(even).tolist() == pytest.approx([5, 5])
    assert energy_captured(even, 2).tolist() == pytest.approx([0.4, 0.4])
    assert tail_exponent(even[:, :5]).tolist() == [math.inf, math.inf]


def test_effective_rank_is_of_values_not_squares() -> None:
    # Roy & Vetterli: shares 3/4 and 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert float(effective_rank(torch.tensor([9.0, 1.0]))) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [2.0, 3.5])
def test_tail_exponent_of_a_power_law_above_a_body(alpha: float) -> None:
    quantiles = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    tail = quantiles ** (-1 / (alpha - 1))
    body = torch.linspace(0.99, 0.01, 400, dtype=torch.float64)
    both = torch.stack([torch.cat([tail, body]), 7 * torch.cat([tail, body])])
    assert tail_exponent(both).tolist() == pytest.approx([alpha, alpha], rel=0.03)


@pytest.mark.parametrize("shape", [(3, 20, 12), (3, 12, 20)])
def test_decompose_is_the_svd(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, dtype=torch.float64)
    found = decompose(matrices, 0.25)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(found.squares, values.square())
    assert found.left.shape[-1] == found.right.shape[-1] == 3
    torch.testing.assert_close(overlap(found.left, left[..., :3]), torch.ones(3).double())
    torch.testing.assert_close(overlap(found.right, right.mT[..., :3]), torch.ones(3).double())


def test_overlap_of_equal_orthogonal_and_half_shared_subspaces() -> None:
    whole = basis(30, 6)
    first, second = whole[:, :2], whole[:, 2:4]
    half = torch.stack([whole[:, 1], whole[:, 4]], 1)
    turned = first @ basis(2, 2)  # the same subspace in another basis
    assert float(overlap(first, turned)) == pytest.approx(1)
    assert float(overlap(first, second)) == pytest.approx(0)
    assert float(overlap(first, half)) == pytest.approx(0.5)
    # the second one is compared by its two leading directions
    assert float(overlap(first, whole[:, [0, 4, 1]])) == pytest.approx(0.5)


@pytest.mark.parametrize(("dimension", "slices"), [(10, 7), (40, 3)])
def test_mean_overlap_is_the_mean_over_pairs(dimension: int, slices: int) -> None:
    bases = torch.stack([basis(dimension, 3) for _ in range(slices)])
    pairs = torch.combinations(torch.arange(slices)).tolist()
    expected = sum(float(overlap(bases[i], bases[j])) for i, j in pairs) / len(pairs)
    assert mean_overlap(bases) == pytest.approx(expected)
    assert mean_overlap(bases[:1].expand(4, -1, -1)) == pytest.approx(1)


def test_random_subspaces_overlap_as_expected() -> None:
    bases = torch.stack([basis(60, 15) for _ in range(20)])
    assert mean_overlap(bases) == pytest.approx(random_overlap(15, 60), rel=0.02)


def test_identical_slices_are_stored_once() -> None:
    tensor = torch.randn(1, 12, 16).expand(4, -1, -1)
    squares = decompose(tensor, 0.5).squares
    (found,) = sharing(tensor, squares, (0.7,))
    assert found.ranks == (1, 12, 16)
    assert found.shared_error == pytest.approx(0, abs=1e-6)
    assert found.penalty == pytest.approx(RESOLUTION / found.separate_error)


def test_a_shared_subspace_pays() -> None:
    left, right = basis(32, 4), basis(32, 4)
    cores = torch.randn(5, 4, 4, dtype=torch.float64)
    shared = left @ cores @ right.mT + 1e-3 * torch.randn(5, 32, 32)
    assert penalty(shared, 0.9) < 0.5
    subspaces = decompose(shared, 1 / 8)
    assert mean_overlap(subspaces.left) == pytest.approx(1, abs=0.02)
    assert mean_overlap(subspaces.right) == pytest.approx(1, abs=0.02)


def test_disjoint_subspaces_cost() -> None:
    left, right = basis(32, 16), basis(32, 16)
    spread = torch.linspace(2, 1, 16, dtype=torch.float64)
    parts = [slice(i, None, 4) for i in range(4)]
    disjoint = torch.stack([left[:, p] @ torch.diag(spread[p]) @ right[:, p].mT for p in parts])
    subspaces = decompose(disjoint, 1 / 8)
    assert mean_overlap(subspaces.left) == pytest.approx(0, abs=1e-6)
    assert mean_overlap(subspaces.right) == pytest.approx(0, abs=1e-6)
    # room for the SVDs of all slices, exactly
    (found,) = sharing(disjoint, subspaces.squares, (0.75,))
    assert found.separate_error < 1e-6
    assert found.shared_error > 0.2
    assert found.penalty == pytest.approx(found.shared_error / RESOLUTION)
    # with half of that, sharing still loses more
    assert penalty(disjoint, 0.875) > 1.1


def test_noise_neither_shares_nor_pays_for_it() -> None:
    (found,) = noise_penalties((2, 64, 64), (0.5,), CPU)
    assert found == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("shape", [(3, 8, 10), (2, 24, 6), (5, 4, 12)])
@pytest.mark.parametrize("saved", [0.2, 0.5, 0.8])
def test_best_ranks_are_those_of_an_exhaustive_search(
    shape: tuple[int, int, int], saved: float
) -> None:
    tensor = torch.randn(shape, dtype=torch.float64)
    tensor = tensor * torch.logspace(0, -1, shape[2]) + torch.randn(shape[1:])
    allowed = math.floor((1 - saved) * tensor.numel())
    energies = {}
    for ranks in torch.cartesian_prod(*(torch.arange(1, s + 1) for s in shape)).tolist():
        if stored_values(shape, ranks) <= allowed:
            core, *_ = hosvd(tensor, dict(enumerate(ranks)))
            energies[tuple(ranks)] = float(core.square().sum())
    (found,) = sharing(tensor, decompose(tensor, 0.5).squares, (saved,))
    assert energies[found.ranks] == pytest.approx(max(energies.values()), rel=1e-9)
    total = float(tensor.square().sum())
    assert found.lower <= found.shared_error + 1e-9
    assert found.shared_error**2 <= 1 - max(energies.values()) / total + 1e-9
    assert found.shared_error <= found.upper + 1e-9


def test_separate_error_takes_the_largest_triples_of_all_slices() -> None:
    tensor = torch.zeros(2, 10, 10, dtype=torch.float64)
    tensor[0].diagonal().copy_(torch.arange(10, 0, -1))
    tensor[1].diagonal().fill_(0.5)
    (found,) = sharing(tensor, decompose(tensor, 0.5).squares, (0.5,))
    # 100 values are 5 triples of 20, all in the first slice
    rest = sum(i**2 for i in range(1, 6)) + 10 * 0.25
    assert found.separate_error == pytest.approx(math.sqrt(rest / (385 + 2.5)))


def test_no_room_is_no_decomposition() -> None:
    tensor = torch.randn(2, 8, 8)
    assert best_ranks(tensor, 10) == (0, 0, 0)
    (found,) = sharing(tensor, decompose(tensor, 0.5).squares, (0.95,))
    assert (found.shared_error, found.separate_error, found.penalty) == (1, 1, 1)
    assert found.lower == pytest.approx(1, abs=2e-6)


def test_joined_and_turned_stacks_keep_their_subspaces() -> None:
    one, other = torch.randn(1, 9, 6), torch.randn(1, 6, 9)
    joined = join([decompose(one, 0.5), decompose(other, 0.5).turned])
    again: Stack = decompose(torch.cat([one, other.mT]), 0.5)
    torch.testing.assert_close(joined.squares, again.squares)
    torch.testing.assert_close(overlap(joined.left, again.left), torch.ones(2).double())
    torch.testing.assert_close(overlap(joined.right, again.right), torch.ones(2).double())


def test_settings_are_checked() -> None:
    params = tiny_params()
    params["tasks"]["mismatch"] = {"kind": "heterogeneity", "saved": [0.5, 1.0]}
    with pytest.raises(TensorpressError, match=r"tasks\.mismatch\.saved\.1: 1\.0 is not allowed"):
        parse(params)


def measured(directory: Path, **settings: object) -> list[EvalRow]:
    spec = Heterogeneity.model_validate({"kind": "heterogeneity", **settings})
    return evaluate(EvaluationJob(directory, None, {}, CPU), spec)


def value(rows: list[EvalRow], metric: str, layer: int, module: str, **where: object) -> float:
    """Of one row; ``where``: its other columns, of which those of parts and states count."""
    names = ("comparison", "partner", "next_layer", "state")
    wanted = (metric, layer, module, *(where.get(name) for name in names))
    (found,) = [
        row.value
        for row in rows
        if (row.metric, row.layer, row.module, *(getattr(row, n) for n in names)) == wanted
    ]
    return found


def test_task_on_grouped_query_attention(llama_directory: Path) -> None:
    rows = measured(llama_directory, saved=[0.5, 0.2])
    parts = {(row.module, row.comparison, row.partner) for row in rows}
    assert {
        ("attention.q", None, None),
        ("attention.q", "modules", "attention.k"),
        ("attention.q", "modules", "attention.o"),
        ("attention.k", "modules", "attention.v"),
        ("attention.v", "heads", None),
        ("ffn.gate", "modules", "ffn.up"),
    } <= parts
    neighbours = {(row.layer, row.next_layer) for row in rows if row.comparison == "layers"}
    assert neighbours == {(0, 1), (1, 2)}
    assert {row.layer for row in rows} == {0, 1, 2}
    assert all(math.isfinite(row.value) for row in rows)
    budgets = {row.values_saved_percent for row in rows if row.metric == "sharing_penalty"}
    assert budgets == {50, 20}
    bounds = {
        (r.module, r.comparison, r.partner, r.layer, r.values_saved_percent, r.metric): r.value
        for r in rows
        if r.values_saved_percent
    }
    for (*stack, metric), error in bounds.items():
        if metric == "shared_error":
            assert bounds[*stack, "hosvd_lower"] <= error + 1e-4
            assert error <= bounds[*stack, "hosvd_upper"] + 1e-4


def test_task_takes_the_stream_side_of_every_projection(llama_directory: Path) -> None:
    """Overlap of q's right and o's left subspace, and of the heads of o, by plain SVDs."""
    rows = measured(llama_directory)
    prefix = "model.layers.1.self_attn"
    names = {p: f"{prefix}.{p}_proj.weight" for p in "qo"}
    tensors = Checkpoint.open(llama_directory).read(names.values())
    q, o = (tensors[names[p]].double() for p in "qo")
    right, left = torch.linalg.svd(q)[2].mT[:, :8], torch.linalg.svd(o)[0][:, :8]
    pair = {"comparison": "modules", "partner": "attention.o"}
    shared = value(rows, "overlap_stream", 1, "attention.q", **pair)
    assert shared == pytest.approx(float(overlap(right, left)))
    chance = value(rows, "overlap_stream", 1, "attention.q", state="random", **pair)
    assert chance == pytest.approx(8 / 32)
    heads = torch.stack([torch.linalg.svd(o[:, i : i + 8])[0][:, :2] for i in range(0, 32, 8)])
    found = value(rows, "overlap_stream", 1, "attention.o", comparison="heads")
    assert found == pytest.approx(mean_overlap(heads), rel=1e-4)


def test_task_on_experts(moe_directory: Path) -> None:
    rows = measured(moe_directory, share=0.5)
    at = {"comparison": "experts"}
    chance = value(rows, "overlap_inner", 0, "experts.down", state="random", **at)
    assert chance == pytest.approx(0.5)
    assert value(rows, "sharing_penalty", 1, "experts.up", **at) > 0
    pair = {"comparison": "modules", "partner": "experts.up"}
    assert value(rows, "overlap_stream", 1, "experts.gate", **pair) > 0
    assert not [r for r in rows if r.comparison == "layers" and group_of(r.module) == "experts"]


def test_task_without_gate(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    rows = measured(tmp_path)
    together = {"comparison": "modules", "partner": "attention.k~attention.v~attention.o"}
    assert value(rows, "sharing_penalty", 1, "attention.q", **together) > 0
    assert value(rows, "overlap_inner", 0, "ffn.up", comparison="layers", next_layer=1) > 0
    assert not [row for row in rows if "gate" in row.module]


def test_task_refuses_a_compressed_model(llama_directory: Path, tmp_path: Path) -> None:
    text = (llama_directory / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("{", '{"tensorpress": {},', 1))
    (tmp_path / "model.safetensors").symlink_to(llama_directory / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"heterogeneity: .* is not allowed: it is compress"):
        measured(tmp_path)
