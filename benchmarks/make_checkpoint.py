"""A checkpoint of any config with made-up weights, complete with a tokenizer: a local model.

    python benchmarks/make_checkpoint.py llama-2-7b /tmp/llama --layers 2 --dtype float16

The first argument is a shape of ``SHAPES`` or the path of a ``config.json``. Every matrix is ``U
diag(s) V^T`` of rank 64 with ``s`` falling as a power of its place, plus white noise of a tenth of
its size: the spectrum decays, as that of trained weights does, and is not exactly of low rank.
Vectors are ones, biases zeros. Tensors have the names and the layout of the hub's checkpoints.
Memory stays below a shard and a tensor.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.commands.meta_model import MetaModel
from tensorpress.files.storage import StoredTensor
from tensorpress.sources.embedded.tokenizer import train_tokenizer

CONFIGS = Path(__file__).parents[1] / "studies/configs"
SHAPES = {
    "llama-2-7b": CONFIGS / "llama-2-7b.json",
    "qwen3-moe": CONFIGS / "qwen3-30b-a3b.json",
}
RANK, DECAY, NOISE = 64, 0.7, 0.1
BLOCK_VALUES = 2**24
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


def main() -> None:
    """Write the checkpoint that the command line describes."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape", help=f"{', '.join(SHAPES)} or a config.json")
    options.add_argument("target", type=Path, help="a new folder")
    options.add_argument("--layers", type=int, help="fewer layers than the config has")
    options.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    path = SHAPES.get(chosen.shape) or Path(chosen.shape)
    config = json.loads(path.read_text(encoding="utf-8"))
    make_checkpoint(config, chosen.target, chosen.layers, chosen.dtype, chosen.seed)


def make_checkpoint(
    config: dict[str, Any], target: Path, layers: int | None, dtype: str, seed: int = 0
) -> None:
    """Write config, tokenizer and shards of a model into the new folder ``target``."""
    if layers is not None:
        config = {**config, **{key: layers for key in LAYER_KEYS if key in config}}
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=1))
    # bytes alone: any text can be read, and every model has as many tokens
    train_tokenizer([], 257).save_pretrained(target)
    generator = torch.Generator().manual_seed(seed)
    writer = ShardWriter(target, getattr(torch, dtype))
    for name, shape in hub_tensors(MetaModel("made", config)):
        tensor = values(name, shape, getattr(torch, dtype), generator)
        writer.add(name, tensor, StoredTensor(shape, None))
    writer.close()


def hub_tensors(model: MetaModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor as the hub stores it: experts one by one."""
    of, running = model.architecture, dict(model.tensors)
    family = of.family
    for layer in of.expert_layers:
        for module, matrices in of.shape(layer).group("experts").items():
            assert family.experts is not None
            if not family.experts.per_expert:
                continue  # this family's are stored as they run
            for fused in of.weight_source(layer, module, model.tensors).names:
                running.pop(fused, None)
            for name in of.weight_source(layer, module, ()).names:
                yield name, (matrices.out_features, matrices.in_features)
    for name, size in running.items():
        for old, new in family.renames.items():
            name = name.replace(new, old)
        yield name, size


def values(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """A tensor's values, made in blocks of rows so that only the tensor itself takes room."""
    if len(shape) == 1:
        return torch.zeros(shape, dtype=dtype) if name.endswith("bias") else torch.ones(shape)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    rank = min(RANK, columns)
    spectrum = torch.arange(1, rank + 1) ** -DECAY
    spectrum /= spectrum.square().sum().sqrt()
    right = torch.randn(rank, columns, generator=generator) * spectrum[:, None]
    made = torch.empty(rows, columns, dtype=dtype)
    for block in made.split(max(1, BLOCK_VALUES // columns)):
        left = torch.randn(len(block), rank, generator=generator)
        noise = torch.randn(block.shape, generator=generator)
        block.copy_(torch.addmm(noise, left, right, beta=NOISE) / math.sqrt(columns))
    return made.view(shape)


if __name__ == "__main__":
    main()
