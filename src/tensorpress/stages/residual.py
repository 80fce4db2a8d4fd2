"""Second moments of the residual stream as norms see it: divided by its root mean square."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.checkpoints.checkpoint import is_finite
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import dtype_name
from tensorpress.running.oom import with_fallback
from tensorpress.running.placement import place


def norm_moments(
    model: PreTrainedModel,
    architecture: Architecture,
    rows: Num[Tensor, "windows ..."],
    batch: int,
    device: torch.device,
) -> dict[str, Float[Tensor, "hidden hidden"]]:
    """``E[n n^T]``, ``n = x / rms(x)`` of the inputs x of a norm, by the paths of the norms.

    Over all tokens of the objective's ``rows``, in float32 from sums in float64. The model is
    brought to ``device``; if memory runs out, all begins anew with less (``oom``).
    """
    family = architecture.family
    layers = map(family.layer_path, range(architecture.layers))
    paths = [f"{layer}.{norm.path}" for layer in layers for norm in family.norms]
    sums: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}

    def watch(path: str, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().flatten(0, -2).float()
        unit = x * x.square().mean(-1, keepdim=True).rsqrt()
        product = (unit.mT @ unit).double()
        sums[path] = product if path not in sums else sums[path].add_(product)
        tokens[path] = tokens.get(path, 0) + len(x)

    def run(where: torch.device, size: int) -> None:
        sums.clear()
        tokens.clear()
        for part in tqdm(rows.split(size), desc="stream", unit="batch"):
            architecture.objective.run(model, part.to(where))

    for path in (*paths, family.final_norm):
        model.get_submodule(path).register_forward_pre_hook(partial(watch, path))
    with torch.inference_mode():
        with_fallback("stream", run, device, batch, partial(place, model))
    found = {path: (total / tokens[path]).float().cpu() for path, total in sums.items()}
    for path, moment in found.items():
        if not is_finite(moment):
            raise TensorpressError(
                f"compute.dtype: {dtype_name(model.dtype)} is not allowed: moments of {path} are "
                "not finite; allowed: a dtype of more range, bfloat16 or float32"
            )
    return found
