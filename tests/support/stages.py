"""Stages of the pipeline called by hand, on a tiny model and its tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from support.workspace import ROOT
from tensorpress.assembly import LayerFactors, assemble
from tensorpress.calibration import calibrate
from tensorpress.checkpoint import Checkpoint
from tensorpress.decomposition import decompose_layer, measure
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.factorfile import save_factors
from tensorpress.families.table import family_of
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.loading import load_model
from tensorpress.manifest import MANIFEST, Provenance, write_manifest
from tensorpress.oom import CPU
from tensorpress.params import Rounding
from tensorpress.registry import load
from tensorpress.reporting import run_query
from tensorpress.rows import DecompositionRow, StorageRow, write_rows

LAYER = 1
"""The layer that is compressed."""
FFN = ("ffn.gate", "ffn.up", "ffn.down")
EXPERTS = ("experts.gate", "experts.up", "experts.down")


def alone(weight: Tensor) -> LayerShape:
    """A layer that has one matrix, or one stack of matrices."""
    slices = weight.shape[0] if weight.ndim == 3 else 1
    module = "experts.up" if weight.ndim == 3 else "ffn.up"
    return LayerShape(1, 1, 1, 1, {module: ModuleShape(*weight.shape[-2:], slices)})


def calibrated(
    directory: Path, windows: Tensor, batch: int, model: Any = None, **settings: Any
) -> list[dict[str, Tensor]]:
    """Moments of all layers of the model in a folder; ``model``: itself, if it is loaded."""
    checkpoint = Checkpoint.open(directory)
    family = family_of(checkpoint.config, "test")
    count = family.layer_count(checkpoint.config)
    shapes = [family.layer_shape(checkpoint.config, i) for i in range(count)]
    model = load_model(directory, CPU) if model is None else model
    return list(calibrate(model, family, shapes, windows, batch, CPU, **settings))


def compress(model: Path, method: str, settings: dict, group: str, folder: Path, modules=None):
    """Compress a group, or some modules of it, in one layer; the checkpoint is ``folder/out``."""
    checkpoint = Checkpoint.open(model)
    family = family_of(checkpoint.config, "test")
    spec = load(method).Spec(method=method, **settings)
    factors, _, _ = decompose_layer(model, family, spec, group, LAYER, None, CPU)
    save_factors(factors, folder / "factors.safetensors")
    chosen = modules or tuple(family.layer_shape(checkpoint.config, LAYER).group(group))
    placement = LayerFactors(LAYER, chosen, folder / "factors.safetensors")
    storage = assemble(model, family, [placement], "float32", folder / "out")
    return family, placement, storage


@dataclasses.dataclass(frozen=True)
class Made:
    """A compressed checkpoint and what it was made from."""

    target: Path
    placement: LayerFactors
    storage: StorageRow
    manifest: dict


def make(
    model: Path, method: str, settings: dict, modules: tuple[str, ...], folder: Path,
    rounding: Rounding | None = None, dtype: str = "float32",
) -> Made:  # fmt: skip
    """Compress modules of one group in one layer, as the pipeline does it, with its manifest."""
    checkpoint = Checkpoint.open(model)
    family = family_of(checkpoint.config, "test")
    shape = family.layer_shape(checkpoint.config, LAYER)
    spec = load(method).Spec(method=method, **settings)
    group = modules[0].split(".")[0]
    factors, seconds, weights = decompose_layer(model, family, spec, group, LAYER, None, CPU)
    folder.mkdir(exist_ok=True)
    save_factors(factors, folder / "f.safetensors")
    labels = {"model": "m", "method_name": method, "method": method, "group": group}
    rows = measure(factors, weights.matrices, shape.modules, labels, LAYER, seconds)
    write_rows(rows, DecompositionRow, folder / "f.parquet")
    placement = LayerFactors(LAYER, modules, folder / "f.safetensors")
    storage = assemble(model, family, [placement], dtype, folder / "out", rounding)
    origin = Provenance(
        LAYER, modules, method, settings, folder / "f.safetensors", folder / "f.parquet"
    )
    write_manifest([origin], dtype, folder / "out", rounding)
    manifest = json.loads((folder / "out" / MANIFEST).read_text())
    return Made(folder / "out", placement, storage, manifest)


def job_of(run: Path, dense: Path | None = None) -> EvaluationJob:
    """An evaluation that needs no corpus."""
    return EvaluationJob(run, dense, {}, CPU)


def ask(name: str, tables: dict[str, Path]) -> pd.DataFrame:
    """What a query of the project finds in tables."""
    return run_query(name, tables, ROOT / "queries").df()


def records(name: str, tables: dict[str, Path]) -> list[dict]:
    return ask(name, tables).to_dict("records")
