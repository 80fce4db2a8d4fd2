"""Quantised checkpoints through the whole workflow: measured as what they stand for, and named."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from safetensors.torch import load_file, save_file
from support import quantised
from support.untrusted import update
from support.workspace import Workspace, save_tiny, tiny_llama, tiny_params

FORMATS = {
    "fp8": (quantised.fp8, "FP8 in blocks of 16 x 16"),
    "gptq": (quantised.gptq, "GPTQ, 4 bits in groups of 8"),
}


def test_two_formats_beside_the_weights_that_they_stand_for(tmp_path: Path) -> None:
    params = tiny_params()
    names = [*FORMATS, *(f"{name}_plain" for name in FORMATS)]
    params["models"] = {n: {"source": "local", "path": f"inputs/{n}"} for n in names}
    params["reports"]["pareto"]["model"] = "gptq"
    for recipe in params["recipes"].values():
        recipe["models"] = names
    workspace = Workspace.create(tmp_path / "project", params)
    bits = {}
    for name, (maker, _) in FORMATS.items():
        folder = save_tiny(tiny_llama(), workspace.folder / "inputs" / name)
        plain = save_tiny(tiny_llama(), workspace.folder / "inputs" / f"{name}_plain")
        weights = maker(folder)
        values = {each: tensor.float().contiguous() for each, tensor in weights.items()}
        save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
        held = load_file(folder / "model.safetensors")
        bits[name] = 8 * sum(tensor.nbytes for tensor in held.values())
    workspace.snakemake()
    (table,) = (workspace.folder / "results/aggregate").glob("table-*/results.parquet")
    found = duckdb.sql(
        "SELECT model, recipe, value, source_quantisation, source_bits, dense_bits "
        f"FROM '{table}' WHERE metric = 'perplexity'"
    ).fetchall()
    rows = {(model, recipe): rest for model, recipe, *rest in found}
    for name, (_, words) in FORMATS.items():
        for recipe in ("baseline", *params["recipes"]):
            value, quantisation, source, dense = rows[name, recipe]
            plain_value, plain_words, plain_source, plain_dense = rows[f"{name}_plain", recipe]
            assert value == pytest.approx(plain_value, rel=1e-6)
            assert (quantisation, source) == (words, bits[name])
            assert (plain_words, plain_source) == (None, plain_dense)
            assert dense == plain_dense
    (page,) = (workspace.folder / "results/reports").glob("pareto*.html")
    assert "dequantised from GPTQ, 4 bits in groups of 8" in page.read_text(encoding="utf-8")


def test_an_unknown_quantisation_is_one_line_before_any_job(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "project")
    config = workspace.folder / "inputs/tiny/config.json"
    update(config, quantization_config={"quant_method": "hqq"})
    done = workspace.run("tensorpress", "check", check=False)
    assert done.returncode
    (line,) = done.stderr.strip().splitlines()
    assert "models.tiny: config.json: quantization_config: weights quantised with 'hqq'" in line
