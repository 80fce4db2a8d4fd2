"""Memory of decomposition and assembly is bounded by a layer's stack, and planning foresees it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.workspace import ROOT, tiny_llama, tiny_moe, tiny_params
from transformers import AutoModelForCausalLM, AutoTokenizer

from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.sites import site_of
from tensorpress.checkpoints.moments import save_moments
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import fitting_sizes
from tensorpress.config.params import parse
from tensorpress.methods.registry import spec_class
from tensorpress.planning import footprint

sys.path.insert(0, str(ROOT / "benchmarks"))
from make_checkpoint import make_checkpoint

LAYERS = 3
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16000,
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": LAYERS,
    "num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": False,
}  # fmt: skip
"""0.85 GB in float32; an FFN matrix takes 46 MB, two stacked ones 92 MB."""
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 8000,
    "hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 384,
    "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 2,
    "head_dim": 64, "num_experts": 64, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip
"""0.5 GB in float32; a projection's experts take 50 MB."""

SHARD = 2**26
JOB = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
torch.set_num_threads(1)
from tensorpress.files import paths
from tensorpress.checkpoints import shards
from tensorpress.planning.artifacts import FactorPlacement
from tensorpress.stages.assembly import assemble
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.stages.decomposition import decompose_layer, measure
from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.methods.registry import spec_class
from tensorpress.files.resident import peak_resident_bytes

job, model, folder, settings, group = json.loads(sys.argv[1])
model, folder = Path(model), Path(folder)
architecture = Checkpoint.open(model).architecture
shape = architecture.shape(0)
shards.SHARD_BYTES = 2**26  # as small beside this model as it is beside a large one
torch.linalg.eigh(torch.eye(64))
start = peak_resident_bytes()
if job == "decompose":
    spec = spec_class(settings["method"]).model_validate(settings)
    moments = paths.moments(model / "moments", 0) if spec.needs_moments else None
    found, seconds, weights = decompose_layer(model, spec, group, 0, moments, torch.device("cpu"))
    made = SimpleNamespace(model=SimpleNamespace(name="m"), method_name="m", spec=spec, group=group)
    measure(found, weights.matrices, shape.modules, made, 0, seconds)
    save_factors(found, folder / "factors")
else:
    modules, factors = tuple(shape.group(group)), folder / "factors"
    made = SimpleNamespace(spec=spec_class(settings["method"]).model_validate(settings))
    placements = [FactorPlacement(layer, modules, made, factors, None)
                  for layer in range(architecture.layers)]
    assemble(model, placements, "float32", folder / "out")
print(json.dumps([start, peak_resident_bytes()]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for config in (LLAMA, MOE):
        model = folder / config["model_type"]
        make_checkpoint(config, model, None, "float32")
        save_moments([moments_of(shape_of(config))], 1, model / "moments")
    return folder


def moments_of(shape: LayerShape) -> dict[str, torch.Tensor]:
    """A second moment of few inputs per site of the groups that are decomposed."""
    torch.manual_seed(0)
    found = {}
    for module in (m for m in shape.modules if m.startswith(("ffn", "experts"))):
        sizes = shape.modules[module]
        inputs = torch.randn(sizes.slices, 64, sizes.in_features)
        found[site_of(module)] = (inputs.mT @ inputs / 64).squeeze(0)
    return found


def shape_of(config: dict) -> LayerShape:
    return architecture_of(config, "model").shape(0)


def peak(folder: Path, job: str, config: dict, settings: dict, group: str) -> tuple[int, int]:
    """Resident bytes of a process that does a job: before it, and at the peak."""
    work = folder / f"{config['model_type']}-{settings['method']}-{group}"
    work.mkdir(exist_ok=True)
    model = folder / config["model_type"]
    arguments = json.dumps([job, str(model), str(work), settings, group])
    done = subprocess.run(
        [sys.executable, "-c", JOB, arguments], check=True, capture_output=True, text=True
    )
    start, most = json.loads(done.stdout.splitlines()[-1])
    return start, most


def stack_bytes(config: dict, settings: dict, group: str) -> int:
    """The largest stack of weights or moments that a method works on, in float32."""
    spec, shape = spec_class(settings["method"]).model_validate(settings), shape_of(config)
    stacks = [[shape.modules[m] for m in each.modules] for each in spec.layouts(shape, group)]
    moments = max(each[0].moment_numel for each in stacks) if spec.needs_moments else 0
    return 4 * max(moments, *(sum(each.numel for each in stack) for stack in stacks))


@pytest.mark.parametrize(
    ("config", "settings", "group", "stacks"),
    [
        (LLAMA, {"method": "tt", "order": 4, "rank": 16}, "ffn", 8.6),
        (MOE, {"method": "td_moe", "ranks": {"out": 128, "in": 128}}, "experts", 3.6),
        (MOE, {"method": "svd", "rank": 64}, "experts", 8.0),
        (MOE, {"method": "mobe", "rank": 64, "bases": 16, "steps": 2}, "experts", 9.5),
        (MOE, {"method": "sparse_tucker", "budget": {"saved": 0.5}}, "experts", 10.5),
        (MOE, {"method": "dense"}, "experts", 4.0),
        (LLAMA, {"method": "gptq"}, "ffn", 6.8),
        (LLAMA, {"method": "sparse", "share": 0.5}, "ffn", 9.0),
        (MOE, {"method": "td_moe", "ratio": 0.4, "whiten": "both"}, "experts", 4.2),
    ],
)
def test_jobs_are_bounded_and_foreseen(
    folder: Path, config: dict, settings: dict, group: str, stacks: float
) -> None:
    """``stacks``: what the method needs; held at once, the group's would be two more."""
    spec, shape = spec_class(settings["method"]).model_validate(settings), shape_of(config)
    predicted = footprint.group_footprint(spec, shape, group, 4)
    start, most = peak(folder, "decompose", config, settings, group)
    assert most - start < stacks * stack_bytes(config, settings, group)
    assert most <= predicted.peak_bytes <= 2.5 * most


@pytest.mark.parametrize("config", [LLAMA, MOE], ids=["llama", "moe"])
def test_assembly_holds_a_shard_and_a_tensor(folder: Path, config: dict) -> None:
    settings = {"method": "svd", "rank": 8}
    peak(folder, "decompose", config, settings, "attention")
    start, most = peak(folder, "assemble", config, settings, "attention")
    model = MetaModel("made", config)
    foreseen = footprint.assembly_footprint(model.architecture, 10**6, "float32", rounded=False)
    assert most <= foreseen.peak_bytes
    largest = max(4 * math.prod(shape) for shape in model.tensors.values())
    whole = sum(
        file.stat().st_size for file in (folder / config["model_type"]).glob("*.safetensors")
    )
    assert most - start < SHARD + 2.5 * largest < 0.8 * whole


def test_plan_says_what_the_jobs_take() -> None:
    params = parse(tiny_params())
    first, *_ = fitting_sizes(MetaModel("made", LLAMA), params)[0]
    job = footprint.group_footprint(params.methods["svd"], shape_of(LLAMA), "ffn", 4)
    record = first.as_dict()
    assert record["decompose_peak_bytes"] == job.peak_bytes
    # a shard of 512 MiB and the embedding, read in float32 and stored in float32
    assert 2**29 + 2 * 4 * 16000 * 2048 < record["assemble_peak_bytes"] < 2.5 * 2**30


@pytest.mark.parametrize("model", [tiny_llama(), tiny_moe()], ids=["llama", "moe"])
def test_made_checkpoints_are_whole(model: torch.nn.Module, tmp_path: Path) -> None:
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    make_checkpoint(config, tmp_path / "made", 2, "float16")
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "made", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.num_hidden_layers == 2
    weight = loaded.model.layers[0].self_attn.q_proj.weight
    values = torch.linalg.svdvals(weight.float())
    assert values[0] > 3 * values[16]
    assert AutoTokenizer.from_pretrained(tmp_path / "made")("word").input_ids
