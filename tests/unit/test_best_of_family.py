"""Every tensor format against SVD: planted structure is found, noise has none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from support.stages import ask
from transformers import LlamaForCausalLM

from tensorpress.checkpoints.loading import load_model
from tensorpress.config.tasks.best_of_family import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.tasks.best_of_family import evaluate, family, scrambled, svd_error
from tensorpress.report import wording
from tensorpress.running.oom import CPU

SPEC = Spec(kind="best_of_family", orders=(2,), scramblings=3)


def rows_of(directory: Path, spec: Spec = SPEC) -> pd.DataFrame:
    job = EvaluationJob(directory, None, {}, CPU)
    return pd.DataFrame([vars(row) for row in evaluate(job, spec)])


def planted(llama_directory: Path, folder: Path, weight: torch.Tensor) -> Path:
    """The tiny model with this gate in its first layer."""
    model = load_model(llama_directory, CPU)
    assert isinstance(model, LlamaForCausalLM)
    gate = model.model.layers[0].mlp.gate_proj.weight
    gate.data = weight.expand_as(gate).clone() if weight.shape != gate.shape else weight
    model.save_pretrained(folder)
    return folder


def of_gate(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    return rows[(rows.layer == 0) & (rows.module == "ffn.gate") & rows.partner.isna()
                & (rows.metric == metric)]  # fmt: skip


def gate_shape(llama_directory: Path) -> tuple[int, int]:
    model = load_model(llama_directory, CPU)
    assert isinstance(model, LlamaForCausalLM)
    out, inner = model.model.layers[0].mlp.gate_proj.weight.shape
    return out, inner


def test_a_kronecker_product_is_found_and_scrambling_destroys_it(
    llama_directory: Path, tmp_path: Path
) -> None:
    out, inner = gate_shape(llama_directory)
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(out // 8, inner // 8, generator=draw)
    weight = torch.kron(left, torch.randn(8, 8, generator=draw))
    rows = rows_of(planted(llama_directory, tmp_path / "model", weight))
    trains = of_gate(rows, "family_error")
    best = trains[trains.stored_by.str.startswith("tt, order 2")].iloc[0]
    assert best.value < 1e-3
    (svd,) = of_gate(rows, "svd_error")[lambda r: r.stored_by == best.stored_by].value
    assert svd > 0.1
    (scrambled_row,) = of_gate(rows, "scrambled_error").itertuples()
    assert scrambled_row.value > 100 * best.value


def test_noise_has_no_order(llama_directory: Path, tmp_path: Path) -> None:
    shape = gate_shape(llama_directory)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    rows = rows_of(planted(llama_directory, tmp_path / "model", noise))
    (found,) = of_gate(rows, "scrambled_error").itertuples()
    best = of_gate(rows, "family_error").value.min()
    assert best / found.value == pytest.approx(1, abs=0.02)


def test_no_error_is_below_its_bound(llama_directory: Path) -> None:
    rows = rows_of(llama_directory)
    keys = ["layer", "module", "partner", "stored_by"]
    errors = rows[rows.metric == "family_error"].set_index(keys).value
    bounds = rows[rows.metric == "family_bound"].set_index(keys).value
    assert len(bounds) > 10
    assert (errors[bounds.index] >= bounds * (1 - 1e-4)).all()


def test_every_tensor_format_is_tried(llama_directory: Path, moe_directory: Path) -> None:
    tried = {
        label.split(",")[0]
        for directory in (llama_directory, moe_directory)
        for label in rows_of(directory).stored_by
    }
    assert tried == {spec.method for spec in family((2,), 0.5)}
    assert {"tt", "tucker_ffn", "tucker_qkvo", "td_moe"} <= tried


def test_svd_spends_its_values_where_most_energy_is() -> None:
    weights = {"a": torch.diag(torch.tensor([3.0, 1.0])), "b": torch.diag(torch.tensor([2.0, 0.0]))}
    spectra = {"a": torch.tensor([9.0, 1.0]), "b": torch.tensor([4.0, 0.0])}
    assert svd_error(spectra, ("a", "b"), weights, 8) == pytest.approx((1 / 14) ** 0.5)
    assert svd_error(spectra, ("a", "b"), weights, 4) == pytest.approx((5 / 14) ** 0.5)
    assert svd_error(spectra, ("a",), weights, 3) == 1.0


def test_scrambling_keeps_the_spectrum_and_moves_each_matrix_its_own_way() -> None:
    stack = torch.randn(2, 6, 4).repeat(1, 1, 1)
    stack[1] = stack[0]
    moved = scrambled({"experts.up": stack}, 0)["experts.up"]
    before, after = (torch.linalg.svdvals(each) for each in (stack, moved))
    torch.testing.assert_close(before, after)
    assert not torch.equal(moved[0], moved[1])
    assert torch.equal(scrambled({"experts.up": stack}, 0)["experts.up"], moved)


def test_the_page_counts_wins(whole: dict[str, Path]) -> None:
    rows = ask("family_stacks", whole)
    total = rows[rows["of_all"]].iloc[0]
    assert (total["compared"], total["tensor_format_wins"], total["order_matters"]) == (4, 4, 4)
    assert total["mean_ratio"] == pytest.approx(0.8)
    assert total["mean_scrambled_ratio"] == pytest.approx(0.5)
    assert total["mean_over_bound"] == pytest.approx(1.25)
    (words,) = wording.family(rows)
    assert "in 4 of 4 stacks; on average the best has 0.800 times SVD's error" in words


def test_a_compressed_model_is_refused(llama_directory: Path, tmp_path: Path) -> None:
    from support.stages import compress

    compress(llama_directory, "svd", {"rank": 4}, "ffn", tmp_path)
    with pytest.raises(TensorpressError, match=r"best_of_family: .* is not allowed: it is compres"):
        rows_of(tmp_path / "out")
