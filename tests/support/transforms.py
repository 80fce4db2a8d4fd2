"""Tiny models and what transforms make of them, without the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoConfig

from support.families import SIZES, auto_class, inputs, loaded
from support.workspace import save_tiny
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.running.oom import CPU
from tensorpress.sources.embedded.pictures import Preprocessor
from tensorpress.sources.inputs import LocalModel
from tensorpress.stages.fetching import fetch_model
from tensorpress.stages.residual import norm_moments
from tensorpress.stages.transformation import write_transformed
from tensorpress.transforms.slicegpt import Spec


def tiny(model_type: str, folder: Path, dtype: torch.dtype = torch.float32, **settings) -> Path:
    """A fetched random model whose norms and biases are not what they begin with."""
    torch.manual_seed(0)
    sizes = {**SIZES[model_type], **settings}
    config = AutoConfig.for_model(model_type, vocab_size=300, **sizes)
    network = auto_class(model_type).from_config(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    saved = save_tiny(network.to(dtype), folder.with_name("saved"))
    Preprocessor().save_pretrained(saved)  # what models of tokens have no use for
    fetch_model("m", LocalModel(source="local", path=str(saved)), folder, torch.device("cpu"))
    return folder


def logits(folder: Path) -> torch.Tensor:
    ids = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model = loaded(folder).eval()
        return model(**inputs(model, ids)).logits


def sliced(
    source: Path,
    target: Path,
    width: int,
    rows: Int[Tensor, "windows window"],
    rotations: Literal["one", "blocks"] = "one",
) -> Path:
    """The model of ``source`` at another width, by its activations on ``rows``."""
    architecture = Checkpoint.open(source).architecture
    network = load_model(source, CPU, torch.float32)
    moments = norm_moments(network, architecture, rows, 2, CPU)
    spec = Spec(transform="slicegpt", width=width, rotations=rotations)
    write_transformed(source, spec, moments, target)
    return target
