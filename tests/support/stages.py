"""Stages of the pipeline called by hand, on a tiny model and its tables."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from support.workspace import ROOT
from tensorpress.architectures.layers import LayerShape, ModuleShape, group_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.manifest import MANIFEST, write_manifest
from tensorpress.checkpoints.rows import DecompositionRow, StorageRow, write_rows
from tensorpress.config.params import Rounding
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.registry import load
from tensorpress.planning.artifacts import DecompositionArtifact, FactorPlacement, ModelArtifact
from tensorpress.report.queries import run_query
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.stages.calibration import calibrate
from tensorpress.stages.decomposition import decompose_layer, measure

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
    architecture = Checkpoint.open(directory).architecture
    model = load_model(directory, CPU) if model is None else model
    return list(calibrate(model, architecture, windows, batch, CPU, **settings))


def decomposition(spec: MethodSpec, group: str) -> DecompositionArtifact:
    """Factors of a group, without the plan that they are a part of."""
    model = ModelArtifact("m", None, "key", False, None)
    return DecompositionArtifact(model, spec.method, spec, group, None, None, "key")


def placed(
    layer: int, modules: tuple[str, ...], spec: MethodSpec, factors: Path, rows: Path | None = None
) -> FactorPlacement:
    """Modules with factors that lie anywhere."""
    return FactorPlacement(layer, modules, decomposition(spec, group_of(modules[0])), factors, rows)


def logits_without_us(checkpoint: Path, folder: Path) -> Tensor:
    """Of a process that has no tensorpress: the code beside the weights runs."""
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorpress":
            raise ImportError("tensorpress is not installed here")
sys.meta_path.insert(0, Block())
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, trust_remote_code=True)
ids = torch.arange(40)[None]
torch.save(model.eval()(input_ids=ids).logits.detach(), {str(folder / "logits.pt")!r})
"""
    environment = {"HF_MODULES_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return torch.load(folder / "logits.pt")


def compress(model: Path, method: str, settings: dict, group: str, folder: Path, modules=None):
    """Compress a group, or some modules of it, in one layer; the checkpoint is ``folder/out``."""
    architecture = Checkpoint.open(model).architecture
    spec = load(method).Spec(method=method, **settings)
    factors, _, _ = decompose_layer(model, spec, group, LAYER, None, CPU)
    save_factors(factors, folder / "factors.safetensors")
    chosen = modules or tuple(architecture.shape(LAYER).group(group))
    placement = placed(LAYER, chosen, spec, folder / "factors.safetensors")
    storage, _ = assemble(model, [placement], "float32", folder / "out")
    return architecture, placement, storage


@dataclasses.dataclass(frozen=True)
class Made:
    """A compressed checkpoint and what it was made from."""

    target: Path
    placement: FactorPlacement
    storage: StorageRow
    manifest: dict


def make(
    model: Path, method: str, settings: dict, modules: tuple[str, ...], folder: Path,
    rounding: Rounding | None = None, dtype: str = "float32",
) -> Made:  # fmt: skip
    """Compress modules of one group in one layer, as the pipeline does it, with its manifest."""
    shape = Checkpoint.open(model).architecture.shape(LAYER)
    spec = load(method).Spec(method=method, **settings)
    group = modules[0].split(".")[0]
    factors, seconds, weights = decompose_layer(model, spec, group, LAYER, None, CPU)
    folder.mkdir(exist_ok=True)
    save_factors(factors, folder / "f.safetensors")
    made = decomposition(spec, group)
    rows = measure(factors, weights.matrices, shape.modules, made, LAYER, seconds)
    write_rows(rows, DecompositionRow, folder / "f.parquet")
    placement = placed(LAYER, modules, spec, folder / "f.safetensors", folder / "f.parquet")
    storage, sets = assemble(model, [placement], dtype, folder / "out", rounding)
    write_manifest(sets, dtype, folder / "out")
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
