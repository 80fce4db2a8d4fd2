"""Peak memory and seconds of fetching a quantised checkpoint of any size.

    python benchmarks/fetch.py llama-2-7b /tmp/work --layers 8 --format fp8

Makes a checkpoint of random codes of the shape in the new folder, a shard a layer, fetches it in a
process of its own (one thread), as the rule does, and prints what that took beside what is foreseen
(``footprint.fetch``). The folder takes the codes and what they stand for in 16 bits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from make_checkpoint import LAYER_KEYS, SHAPES, hub_tensors
from safetensors.torch import save_file
from torch import Tensor

from tensorpress.commands.meta_model import MetaModel
from tensorpress.files.resident import peak_resident_bytes
from tensorpress.planning import footprint, identities
from tensorpress.running.oom import CPU
from tensorpress.sources.embedded.tokenizer import train_tokenizer
from tensorpress.sources.inputs import LocalModel
from tensorpress.stages.fetching import fetch_model

DTYPE = "bfloat16"
BLOCK, GROUP = 128, 128
"""Values that share a scale: in both directions of FP8, of the inputs of GPTQ."""
FP8: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip


def main() -> None:
    """Make, fetch, print; or fetch alone, in the process that is measured."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape", choices=(*SHAPES, "tiny"))
    options.add_argument("folder", type=Path, help="a new folder")
    options.add_argument("--layers", type=int, help="fewer layers than the shape has")
    options.add_argument("--format", choices=FORMATS, default="fp8")
    options.add_argument("--fetch-only", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    source, target = chosen.folder / "model", chosen.folder / "fetched"
    spec = LocalModel(source="local", path=str(source))
    if chosen.fetch_only:
        torch.set_num_threads(1)
        fetch_model("made", spec, target, CPU, stored=DTYPE)
        print(peak_resident_bytes())
        return
    shape = SHAPES.get(chosen.shape)
    config = json.loads(shape.read_text(encoding="utf-8")) if shape else TINY
    make(config, source, chosen.layers, *FORMATS[chosen.format])
    done = subprocess.run(
        [sys.executable, *sys.argv, "--fetch-only"], check=True, stdout=subprocess.PIPE, text=True
    )
    peak = int(done.stdout.split()[-1])
    foreseen = footprint.fetch(identities.model("made", spec, DTYPE)).peak_bytes
    held, made = (sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (source, target))
    print(
        f"{chosen.shape}, {chosen.format}: {held / 1e9:.3g} GB of codes, {made / 1e9:.3g} GB in "
        f"{DTYPE}: peak {peak / 1e6:,.0f} MB, foreseen {foreseen / 1e6:,.0f} MB"
    )


def make(
    config: dict[str, Any],
    target: Path,
    layers: int | None,
    settings: dict[str, Any],
    codes: Callable[[str, tuple[int, ...]], dict[str, Tensor]],
) -> None:
    """A shard a layer of random codes, and one of what is not quantised."""
    if layers is not None:
        config = {**config, **{key: layers for key in LAYER_KEYS if key in config}}
    target.mkdir(parents=True)
    written = {**config, "dtype": DTYPE, "quantization_config": settings}
    (target / "config.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    train_tokenizer([], 257).save_pretrained(target)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in hub_tensors(MetaModel("made", config)):
        layer = name.split(".layers.")[1].split(".")[0] if ".layers." in name else "rest"
        shards.setdefault(layer, {})[name] = shape
    places = {}
    for number, tensors in enumerate(shards.values(), start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        held: dict[str, Tensor] = {}
        for name, shape in tensors.items():
            linear = len(shape) == 2 and ".layers." in name
            held |= codes(name, shape) if linear else {name: torch.ones(shape).to(torch.bfloat16)}
        save_file(held, target / file, metadata={"format": "pt"})
        places |= dict.fromkeys(held, file)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (target / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def fp8(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Codes and a scale a block, as DeepSeek-V3's."""
    rows, columns = shape
    codes = torch.randint(0, 0x78, shape, dtype=torch.uint8)  # all below the largest are numbers
    scales = torch.full((-(-rows // BLOCK), -(-columns // BLOCK)), 1e-3)
    return {name: codes.view(torch.float8_e4m3fn), f"{name}_scale_inv": scales}


def gptq(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Words of eight codes down the inputs, zeros along the outputs, as AutoGPTQ's."""
    (out, inner), module = shape, name.removesuffix(".weight")
    groups = -(-inner // GROUP)
    return {
        f"{module}.qweight": torch.randint(-(2**31), 2**31, (inner // 8, out), dtype=torch.int32),
        f"{module}.qzeros": torch.randint(-(2**31), 2**31, (groups, out // 8), dtype=torch.int32),
        f"{module}.scales": torch.full((groups, out), 1e-3, dtype=torch.float16),
        f"{module}.g_idx": torch.arange(inner, dtype=torch.int32) // GROUP,
    }


FORMATS = {"fp8": (FP8, fp8), "gptq": (GPTQ, gptq)}

if __name__ == "__main__":
    main()
