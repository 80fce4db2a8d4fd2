"""Task ``prediction``: the damage that moments predict for a run, beside what is measured."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from tensorpress.analysis.damage import changes, damage_nats, sensitivity
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model, matrices
from tensorpress.checkpoints.manifest import MANIFEST
from tensorpress.checkpoints.moments import load_moments, tokens_of
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.prediction import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.files import paths
from tensorpress.methods.factors import stacked


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """``predicted_damage`` in nats per token: of every replaced module, and of the run.

    Adapters of recovery are no part of it. ``TensorpressError`` for a checkpoint without a
    manifest: nothing was replaced.
    """
    manifest = job.run_directory / MANIFEST
    if not manifest.is_file():
        raise TensorpressError(f"{manifest}: missing; allowed: task prediction of a recipe's runs")
    replaced = json.loads(manifest.read_text(encoding="utf-8"))["modules"]
    dense = Checkpoint.open(job.dense)
    model = load_model(job.run_directory, job.device, spill=False)
    rows, total = [], 0.0
    for layer in sorted({each["layer"] for each in replaced}):
        if layer == dense.architecture.outer:
            continue  # the embedding has no inputs to have moments of
        file = paths.moments(job.moments, layer)
        sites = load_moments(file, job.device)
        tokens = tokens_of(file)
        weights, rebuilt = dict[str, Tensor](), dict[str, Tensor]()
        for module in (each["module"] for each in replaced if each["layer"] == layer):
            weights[module] = stacked(dense.weight(layer, module, torch.float32, job.device))
            rebuilt[module] = matrices(model, dense.architecture, layer, module).to(job.device)
        for module, change in changes(weights, rebuilt, dense.architecture.shape(layer)).items():
            damage = damage_nats(change, sensitivity(sites, module, tokens))
            total += damage
            said = f"moments of {tokens} tokens"
            rows.append(
                EvalRow(
                    metric="predicted_damage",
                    value=damage,
                    version=said,
                    layer=layer,
                    module=module,
                )
            )
    version = rows[0].version if rows else ""  # of one calibration, all layers
    return [EvalRow(metric="predicted_damage", value=total, version=version), *rows]
