"""On a GPU: the numbers of the CPU, models that fit only in part, and memory that runs out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.stages import placed
from support.workspace import tiny_text

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.checkpoints.moments import save_moments
from tensorpress.config.tasks.perplexity import Spec as Perplexity
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks import perplexity
from tensorpress.files import paths
from tensorpress.formats.grouped import grouped_linear
from tensorpress.formats.two_four import TwoFour
from tensorpress.linalg.pruning import Pattern, by_magnitude
from tensorpress.methods.registry import load
from tensorpress.objectives.windows import token_windows
from tensorpress.running import placement
from tensorpress.running.oom import CPU
from tensorpress.running.placement import is_spilled
from tensorpress.stages.assembly import assemble
from tensorpress.stages.calibration import calibrate
from tensorpress.stages.decomposition import decompose_layer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]

CUDA = torch.device("cuda")
IDS = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(0))
LLAMA = [
    ("svd", {"rank": 8, "whiten": "input"}, "ffn"),
    ("tt", {"order": 3, "rank": 8}, "ffn"),
    ("tucker_qkvo", {"ranks": {"hidden": 12, "head_dim": 4, "stack": 2}}, "attention"),
    ("gptq", {"bits": 4, "group_size": 8}, "ffn"),
    ("sparse", {"share": 0.5, "criterion": "wanda"}, "ffn"),
]
MOE = [
    ("svd", {"rank": 5, "whiten": "input"}, "experts"),
    ("td_moe", {"ratio": 0.3}, "experts"),
]


@dataclasses.dataclass
class Study:
    """What one device made: moments by layer and name, errors by module, and the job."""

    moments: list[dict[str, torch.Tensor]]
    errors: list[float]
    job: EvaluationJob

    def perplexity(self, **settings: int | str) -> float:
        """Of the first windows of the text."""
        spec = Perplexity(
            kind="perplexity", corpus="t", **{"window": 64, "max_windows": 8, **settings}
        )
        return perplexity.evaluate(self.job, spec)[0].value


def study(model: Path, case: tuple, device: torch.device, folder: Path) -> Study:
    """Calibrate, decompose layer 1, assemble; evaluation is up to the test."""
    method, settings, group = case
    folder.mkdir()
    (folder / "text.txt").write_text(tiny_text(), encoding="utf-8")
    architecture = Checkpoint.open(model).architecture
    windows = token_windows(load_tokenizer(model), tiny_text(), 64, 8)
    moments = list(calibrate(load_model(model, CPU), architecture, windows, 4, device))
    save_moments(moments, windows.numel(), folder / "moments")
    spec = load(method).Spec(method=method, **settings)
    file = paths.moments(folder / "moments", 1) if spec.needs_moments else None
    factors, _, weights = decompose_layer(model, spec, group, 1, file, device)
    errors = []
    for each in factors:
        rebuilt = each.store.stacked().cpu()
        whole = torch.cat([weights[m].reshape(-1, *rebuilt.shape[1:]).cpu() for m in each.modules])
        errors.append(float((rebuilt - whole).norm() / whole.norm()))
    save_factors(factors, folder / "factors.safetensors")
    modules = tuple(architecture.shape(1).group(group))
    chosen = placed(1, modules, spec, folder / "factors.safetensors")
    assemble(model, [chosen], "float32", folder / "out")
    job = EvaluationJob(folder / "out", model, {"text": folder / "text.txt"}, device)
    return Study(moments, errors, job)


def check(model: Path, case: tuple, folder: Path, device: torch.device = CUDA) -> None:
    """The numbers of ``device`` are those of the CPU."""
    ours, expected = (study(model, case, each, folder / name) for name, each in
                      (("ours", device), ("cpu", CPU)))  # fmt: skip
    for found, wanted in zip(ours.moments, expected.moments, strict=True):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert ours.errors == pytest.approx(expected.errors, rel=1e-3)
    assert ours.perplexity() == pytest.approx(expected.perplexity(), rel=1e-3)
    assert ours.perplexity(dtype="bfloat16") == pytest.approx(expected.perplexity(), rel=0.02)
    assert not ours.job.notes


@pytest.mark.parametrize("case", LLAMA, ids=lambda case: case[0])
def test_dense_models(llama_directory: Path, tmp_path: Path, case: tuple) -> None:
    check(llama_directory, case, tmp_path)


@pytest.mark.parametrize("case", MOE, ids=lambda case: case[0])
def test_mixtures(moe_directory: Path, tmp_path: Path, case: tuple) -> None:
    check(moe_directory, case, tmp_path)


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_a_model_that_fits_only_in_part(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = request.getfixturevalue(f"{kind}_directory")
    whole = load_model(directory, CPU)
    size = placement.stored_bytes(whole)
    monkeypatch.setattr(placement, "_room", lambda index: 6 * size // 7 if index == 0 else 0)
    architecture = Checkpoint.open(directory).architecture
    with torch.inference_mode():
        spread = load_model(directory, CUDA)
        assert is_spilled(spread)
        found = spread(input_ids=IDS.to(CUDA)).logits.cpu()
        torch.testing.assert_close(found, whole(input_ids=IDS).logits, rtol=1e-3, atol=1e-4)
    expected = list(calibrate(whole, architecture, IDS, 1, CPU))
    partly = load_model(directory, CPU)
    moments = list(calibrate(partly, architecture, IDS, 1, CUDA))
    assert is_spilled(partly)
    for layer, tensors in enumerate(expected):
        for name, value in tensors.items():
            torch.testing.assert_close(moments[layer][name], value, rtol=1e-3, atol=1e-5)


def test_memory_that_runs_out(llama_directory: Path, tmp_path: Path) -> None:
    made = study(llama_directory, LLAMA[0], CUDA, tmp_path / "made")
    expected = made.perplexity()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    # two windows' logits and losses: the batch of eight cannot be, that of one can
    torch.cuda.set_per_process_memory_fraction((24 * 2**20) / total)
    try:
        found = made.perplexity(window=128, max_windows=512, batch=512)
        assert made.job.notes
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    again = made.perplexity(window=128, max_windows=512, batch=8)
    assert found == pytest.approx(again, rel=1e-3)
    assert made.perplexity() == pytest.approx(expected, rel=1e-4)


def test_a_gpu_without_any_room_leaves_it_to_the_cpu(llama_directory: Path, tmp_path: Path) -> None:
    made = study(llama_directory, LLAMA[0], CPU, tmp_path / "made")
    expected = made.perplexity()
    made.job = dataclasses.replace(made.job, device=CUDA, notes=[])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        assert made.perplexity() == pytest.approx(expected, rel=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("CPU" in note for note in made.job.notes)


@pytest.mark.parametrize("sizes", [(16, 24), (12, 24), (16, 20), (3, 9)])
def test_grouped_products_of_any_size(sizes: tuple[int, int]) -> None:
    ends = torch.tensor([3, 3, 20], dtype=torch.int32, device=CUDA)
    x = torch.randn(20, sizes[1], device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(3, *sizes, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    expected = torch.cat([x[:3] @ weight[0].mT, x[3:] @ weight[2].mT])
    wanted = torch.autograd.grad(expected.sum(), [x, weight])
    y = grouped_linear(x, weight, ends)
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-1)
    found = torch.autograd.grad(y.sum(), [x, weight])
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-1)


def test_two_of_four_run_on_the_sparse_tensor_cores() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 64, 128)
    masks = torch.stack([by_magnitude(matrix, Pattern(0, (2, 4))) for matrix in weight])
    store = TwoFour.of(weight, masks).to(CUDA, torch.float16)
    x = torch.randn(3, 40, 128, device=CUDA, dtype=torch.float16)
    expected = x @ store.dense(1).mT
    torch.testing.assert_close(store.project(x, 1), expected, rtol=1e-2, atol=1e-1)
    assert isinstance(store._semi_structured(1), torch.sparse.SparseSemiStructuredTensor)
    assert store._semi_structured(1) is store._semi_structured(1)
    with torch.no_grad():
        store.values.mul_(2)  # what was kept of the factors is made again
    torch.testing.assert_close(store.project(x, 1), 2 * expected, rtol=1e-2, atol=2e-1)
    store.requires_grad_(True)  # factors that are trained are rebuilt
    store.project(x, 1).sum().backward()
    assert bool(store.values.grad[1].any())
