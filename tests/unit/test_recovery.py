"""Recovery: adapters on every format, through disk, counted, merged, rounded, text kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import FOUND, RENAMED, SIZES
from support.recovery import FAST, IDS, LLAMA, MOE, WINDOWS, recovered
from support.stages import compress
from support.workspace import tiny_params, tiny_text
from transformers import AutoConfig, AutoModelForCausalLM

from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.densify import densify
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import Params, parse
from tensorpress.config.recovery import Adapters
from tensorpress.errors import TensorpressError
from tensorpress.planning.compression import compression_of
from tensorpress.planning.jobs import live_paths
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.recovery import recover


def logits(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(folder, CPU)(input_ids=ids).logits


def loss(folder: Path) -> float:
    with torch.inference_mode():
        return float(load_model(folder, CPU)(input_ids=WINDOWS, labels=WINDOWS).loss)


@pytest.mark.parametrize("case", LLAMA, ids=lambda case: case[0])
def test_every_format_learns_and_is_stored(llama_directory: Path, tmp_path: Path, case) -> None:
    expected, storage, row = recovered(llama_directory, case, tmp_path)
    torch.testing.assert_close(logits(tmp_path / "recovered"), expected, atol=1e-4, rtol=1e-3)
    assert loss(tmp_path / "recovered") < loss(tmp_path / "out")
    assert row.stored_bits > storage.stored_bits
    assert row.modules_stored_bits - storage.modules_stored_bits == (
        row.stored_bits - storage.stored_bits
    )
    densify(tmp_path / "recovered", tmp_path / "dense")
    torch.testing.assert_close(logits(tmp_path / "dense"), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("case", MOE, ids=lambda case: case[0])
def test_experts_learn_and_are_stored(moe_directory: Path, tmp_path: Path, case) -> None:
    expected, storage, row = recovered(moe_directory, case, tmp_path)
    torch.testing.assert_close(logits(tmp_path / "recovered"), expected, atol=1e-4, rtol=1e-3)
    assert loss(tmp_path / "recovered") < loss(tmp_path / "out")
    inner = case[1].get("neurons", 24)
    values = 4 * 3 * 2 * (32 + inner)  # experts, projections, rank, sides
    assert row.stored_bits - storage.stored_bits == 32 * values


RECOVERED = ["gpt2", "gpt_neox", "opt", "gpt_oss", "deepseek_v3", "gemma3", "llama4_text", "phi3"]


@pytest.mark.parametrize("family", RECOVERED)
def test_fused_and_transposed_layers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=300, **{**SIZES, **FOUND}[family])
    network = AutoModelForCausalLM.from_config(config)
    network.save_pretrained(tmp_path / "model", save_original_format=family not in RENAMED)
    case = ("svd", {"rank": 5}, "attention")
    for keep in ("kept", "merged"):
        folder = tmp_path / keep
        folder.mkdir()
        expected, storage, row = recovered(
            tmp_path / "model", case, folder, modules="all", keep=keep
        )
        found = logits(folder / "recovered")
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
        outside = row.stored_bits - storage.stored_bits
        inside = row.modules_stored_bits - storage.modules_stored_bits
        assert (outside > inside > 0) == (keep == "kept")
        densify(folder / "recovered", folder / "dense")
        torch.testing.assert_close(logits(folder / "dense"), found, atol=1e-4, rtol=1e-3)


def test_merging_into_whole_matrices_costs_nothing(llama_directory: Path, tmp_path: Path) -> None:
    case = ("dense", {}, "attention")
    expected, storage, row = recovered(llama_directory, case, tmp_path, keep="merged")
    torch.testing.assert_close(logits(tmp_path / "recovered"), expected, atol=1e-4, rtol=1e-3)
    assert row.stored_bits == storage.stored_bits


def test_rounded_adapters(llama_directory: Path, tmp_path: Path) -> None:
    exact, storage, row = recovered(
        llama_directory, ("svd", {"rank": 5}, "ffn"), tmp_path, rounding={"bits": 8}
    )
    found = logits(tmp_path / "recovered")
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.02
    values = 3 * 2 * (32 + 48)
    scales = 3 * 2
    assert row.stored_bits - storage.stored_bits == 8 * values + 32 * scales


def test_seeds_decide(llama_directory: Path, tmp_path: Path) -> None:
    architecture, _, _ = compress(llama_directory, "svd", {"rank": 5}, "ffn", tmp_path)
    found = [
        recover(
            load_model(tmp_path / "out", CPU), architecture, WINDOWS, Adapters(**FAST), seed, CPU
        )
        for seed in (0, 0, 1)
    ]
    path = next(iter(found[0]))
    left = [adapters[path].left for adapters in found]
    assert torch.equal(left[0], left[1])
    assert not torch.equal(left[0], left[2])


def study(llama_directory: Path, folder: Path, **lora) -> Params:
    (folder / "text.txt").write_text(tiny_text(), encoding="utf-8")
    lines = (f"In year {i} they told each other many long stories about that" for i in range(300))
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    params = tiny_params() | {"external": [str(llama_directory), str(folder)]}
    params["models"]["tiny"]["path"] = str(llama_directory)
    params["corpora"] = {
        name: {"source": "file", "path": str(folder / f"{name}.txt")} for name in ("text", "train")
    }
    params["recipes"]["svd"]["recover"] = {**FAST, "corpus": "train", **lora}
    return parse(params)


def test_plan_recovers_once_a_seed(llama_directory: Path, tmp_path: Path) -> None:
    plan = Plan(study(llama_directory, tmp_path, seeds=[0, 1, 2]))
    assert len(plan.recoveries) == 3
    assert len(plan.runs) == 3  # baseline, svd, drop: assembled once
    runs = [each for each in plan.recipe_runs if each.recipe == "svd"]
    assert [each.seed for each in runs] == [0, 1, 2]
    (made,) = {compression_of(each.run) for each in runs}
    assert (made.methods, made.trained) == ("svd-whitened", "adapters")
    assert len(live_paths(plan)["recover"]) == 6


def test_text_of_recovery_is_not_that_of_evaluation(llama_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TensorpressError, match=r"recipes\.svd\.recover\.corpus: 'text' is not allow"
    ):
        Plan(study(llama_directory, tmp_path, corpus="text"))
    params = study(llama_directory, tmp_path)
    copied = tiny_text()[:5_000]
    train = tmp_path / "train.txt"
    train.write_text(train.read_text(encoding="utf-8") + copied, encoding="utf-8")
    with pytest.raises(TensorpressError, match=r"'train' is not allowed.*both hold"):
        Plan(params)


@pytest.mark.parametrize("case", MOE[1:], ids=lambda case: case[0])
def test_plan_counts_what_recovery_stores(moe_directory: Path, tmp_path: Path, case) -> None:
    lora = {"modules": "all", "rounding": {"bits": 4}}
    _, _, row = recovered(moe_directory, case, tmp_path, **lora)
    params = tiny_params() | {"external": [str(moe_directory)]}
    params["models"]["tiny"]["path"] = str(moe_directory)
    params["methods"]["td"] = {"method": case[0], **case[1]}
    params["layer_sets"]["one"] = [1]
    steps = [{"modules": ["experts"], "method": "td"}]
    recipe = {**params["recipes"]["svd"], "steps": steps, "recover": {**FAST, **lora}}
    params["recipes"] = {"td": recipe}
    config = AutoConfig.from_pretrained(moe_directory).to_dict()
    (size,) = sizes(MetaModel("tiny", config), parse(params))
    assert size.saved == row.saved
