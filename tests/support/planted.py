"""Super weights planted into a tiny Llama, and rows about them."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from support.workspace import tiny_llama
from tensorpress.architectures.published import SuperWeight
from tensorpress.checkpoints.rows import EvalRow


def at(layer: int, row: int, column: int) -> SuperWeight:
    return SuperWeight(layer=layer, row=row, column=column)


def plant(model: LlamaForCausalLM, place: SuperWeight, value: float = 5.0) -> None:
    """Make an input channel of ``ffn.down`` huge and let one weight carry it on."""
    mlp = model.model.layers[place.layer].mlp
    reading = 2.5 * torch.randn(
        mlp.gate_proj.in_features, generator=torch.Generator().manual_seed(place.column)
    )
    with torch.no_grad():
        for linear in (mlp.gate_proj, mlp.up_proj):  # silu(g) g: never below zero
            linear.weight[place.column] = reading
        mlp.down_proj.weight[place.row, place.column] = value


def planted(*places: SuperWeight) -> LlamaForCausalLM:
    model = tiny_llama()
    for place in places:
        plant(model, place)
    return model


def select(rows: list[EvalRow], metric: str) -> list[EvalRow]:
    return [row for row in rows if row.metric == metric]
