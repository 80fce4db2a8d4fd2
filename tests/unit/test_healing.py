"""Factors that are trained: what changes, what does not, and what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.recovery import IDS, LLAMA, MOE, WINDOWS
from support.stages import compress
from support.workspace import tiny_llama, tiny_params
from torch.nn.functional import kl_div
from transformers import AutoConfig

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.rows import StorageRow
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import parse
from tensorpress.config.recovery import Factors
from tensorpress.errors import TensorpressError
from tensorpress.objectives.token_losses import Teacher
from tensorpress.running.oom import CPU
from tensorpress.stages.healed_checkpoint import write_healed
from tensorpress.stages.healing import heal

FAST = {
    "train": "factors", "steps": 6, "accumulation": 1, "batch": 4, "window": 16,
    "learning_rate": 0.02,
}  # fmt: skip
TRAINED = [case for case in LLAMA if case[0] != "dense"]
ROUND = {"bits": 4, "group_size": 16}


def healed(
    model: Path, case: tuple, folder: Path, teacher: Teacher | None = None, **settings
) -> tuple[torch.Tensor, dict[str, torch.Tensor], StorageRow, StorageRow]:
    """Compress, heal and write; the trained model's logits, its values, both rows of bits."""
    architecture, _, storage = compress(model, *case, folder)
    spec = Factors(**{**FAST, **settings})
    tuned = load_model(folder / "out", CPU)
    trained = heal(tuned, architecture, WINDOWS, spec, 0, CPU, teacher=teacher)
    with torch.inference_mode():
        expected = tuned.eval()(input_ids=IDS).logits
    row = write_healed(folder / "out", trained, spec, "float32", storage, folder / "healed")
    return expected, trained, storage, row


def logits(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(folder, CPU)(input_ids=ids).logits


def loss(folder: Path) -> float:
    with torch.inference_mode():
        return float(load_model(folder, CPU)(input_ids=WINDOWS, labels=WINDOWS).loss)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case[0])
def test_every_format_heals_at_the_same_bits(llama_directory: Path, tmp_path: Path, case) -> None:
    expected, trained, storage, row = healed(llama_directory, case, tmp_path)
    torch.testing.assert_close(logits(tmp_path / "healed"), expected, atol=1e-4, rtol=1e-3)
    assert loss(tmp_path / "healed") < loss(tmp_path / "out")
    assert row.saved == storage.saved
    before, after = tensors(tmp_path / "out"), tensors(tmp_path / "healed")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == trained.keys()
    assert all(".tensorpress." in name for name in changed)


@pytest.mark.parametrize("case", MOE, ids=lambda case: case[0])
def test_experts_heal(moe_directory: Path, tmp_path: Path, case) -> None:
    expected, _, storage, row = healed(moe_directory, case, tmp_path)
    torch.testing.assert_close(logits(tmp_path / "healed"), expected, atol=1e-4, rtol=1e-3)
    assert loss(tmp_path / "healed") < loss(tmp_path / "out")
    assert row.saved == storage.saved


def test_norms_are_trained_where_that_is_asked_for(llama_directory: Path, tmp_path: Path) -> None:
    _, trained, _, _ = healed(llama_directory, TRAINED[0], tmp_path, norms=True)
    norms = {name for name in trained if ".tensorpress." not in name}
    every = {name for name, t in tensors(tmp_path / "out").items() if "norm" in name}
    assert norms == every
    assert len(norms) > 2


def test_nothing_trained_is_the_same_checkpoint(llama_directory: Path, tmp_path: Path) -> None:
    _, _, storage = compress(llama_directory, *TRAINED[0], tmp_path)
    row = write_healed(tmp_path / "out", {}, Factors(**FAST), "float32", storage, tmp_path / "same")
    assert row.saved == storage.saved
    before, after = tensors(tmp_path / "out"), tensors(tmp_path / "same")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_seeds_decide(llama_directory: Path, tmp_path: Path) -> None:
    architecture, _, _ = compress(llama_directory, *TRAINED[1], tmp_path)
    found = [
        heal(load_model(tmp_path / "out", CPU), architecture, WINDOWS, Factors(**FAST), seed, CPU)
        for seed in (0, 0, 1)
    ]
    name = next(iter(found[0]))
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])


def test_cores_of_any_scale_move_alike(llama_directory: Path, tmp_path: Path) -> None:
    """A step is a share of a factor's size, so that a chain's scales do not matter."""
    architecture, _, _ = compress(llama_directory, "svd", {"rank": 5}, "attention", tmp_path)
    moved = []
    for scale in (1.0, 64.0):
        model = load_model(tmp_path / "out", CPU)
        for name, value in model.named_parameters():
            if ".tensorpress." in name:
                value.data *= scale if name.endswith("left") else 1 / scale
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        spec = Factors(**{**FAST, "steps": 1})
        after = heal(model, architecture, WINDOWS, spec, 0, CPU)
        moved.append({n: (after[n] - before[n]).norm() / before[n].norm() for n in after})
    for name, share in moved[0].items():
        assert float(share) == pytest.approx(float(moved[1][name]), rel=1e-2)


def test_the_divergence_is_that_of_the_softened_distributions() -> None:
    draw = torch.Generator().manual_seed(0)
    own, taught = (torch.randn(5, 11, generator=draw) for _ in range(2))
    losses = torch.rand(5, generator=draw)
    model = tiny_llama(1)
    teacher = Teacher(model, temperature=2.0, share=0.25)
    p, q = ((each / 2).softmax(-1) for each in (taught, own))
    expected = 0.75 * losses + 0.25 * 4 * (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(teacher.loss(own, taught, losses), expected)
    nothing = Teacher(model, temperature=3.0, share=1.0).loss(own, own, losses)
    torch.testing.assert_close(nothing, torch.zeros(5), atol=1e-6, rtol=0)


def test_a_dense_model_teaches(llama_directory: Path, tmp_path: Path) -> None:
    """Its distribution is approached, which the text alone does not ask for."""
    dense = load_model(llama_directory, CPU)
    taught = dense(input_ids=WINDOWS).logits.log_softmax(-1).detach()

    def divergence(folder: Path) -> float:
        own = logits(folder, WINDOWS).log_softmax(-1)
        return float(kl_div(own, taught, reduction="batchmean", log_target=True))

    case = ("svd", {"rank": 5}, "ffn")
    healed(llama_directory, case, tmp_path / "text")
    healed(llama_directory, case, tmp_path / "model", Teacher(dense, 1.0, 1.0))
    start, by_text, by_model = (
        divergence(tmp_path / folder) for folder in ("model/out", "text/healed", "model/healed")
    )
    assert by_model < start
    assert by_model < by_text


@pytest.mark.parametrize(
    ("model", "method", "settings", "modules"),
    [("llama_directory", "tt", {"order": 3, "rank": 4}, "ffn"),
     ("moe_directory", "td_moe", {"ratio": 0.3}, "experts")],
)  # fmt: skip
def test_healed_factors_are_rounded_and_counted_as_planned(
    model: str, method: str, settings: dict, modules: str, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    directory = request.getfixturevalue(model)
    expected, _, storage, row = healed(
        directory, (method, settings, modules), tmp_path, rounding=ROUND
    )
    assert row.stored_bits < storage.stored_bits
    found = logits(tmp_path / "healed")
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.5
    layers = range(Checkpoint.open(directory).architecture.layers)
    params = tiny_params() | {"external": [str(directory)]}
    params["models"]["tiny"]["path"] = str(directory)
    params["storage"] = {"dtype": "float32"}
    params["methods"]["chosen"] = {"method": method, **settings}
    params["layer_sets"]["one"] = [layers[-1]]
    steps = [{"modules": [modules], "method": "chosen"}]
    recover = {**FAST, "rounding": ROUND}
    params["recipes"] = {
        "healed": {
            **params["recipes"]["svd"],
            "steps": steps,
            "recover": recover,
            "layers": ["one"],
        }
    }
    config = AutoConfig.from_pretrained(directory).to_dict()
    (size,) = sizes(MetaModel("tiny", config), parse(params))
    assert size.saved == row.saved


def test_a_model_without_factors_has_none_to_train(llama_directory: Path, tmp_path: Path) -> None:
    architecture, _, _ = compress(llama_directory, "dense", {}, "attention", tmp_path)
    model = load_model(tmp_path / "out", CPU)
    with pytest.raises(TensorpressError, match=r"recover\.train: factors of a model that has none"):
        heal(model, architecture, WINDOWS, Factors(**FAST), 0, CPU)


def test_factors_are_rounded_once() -> None:
    params = tiny_params()
    recipe = params["recipes"]["svd"]
    recipe |= {"rounding": ROUND, "recover": {**FAST, "rounding": ROUND}}
    with pytest.raises(TensorpressError, match=r"svd.*recover\.rounding.*one of the two"):
        parse(params)
