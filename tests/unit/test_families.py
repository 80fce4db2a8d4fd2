"""Every family: a tiny random model, compressed and saved, equals the dense rebuild."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from support.families import FOUND, RENAMED, SIZES, auto_class, inputs, loaded
from support.methods import ALONE
from support.stages import placed
from transformers import AutoConfig

from tensorpress.architectures.families.found import FoundFamily
from tensorpress.architectures.families.table import FAMILIES
from tensorpress.architectures.layers import group_of
from tensorpress.architectures.sites import site_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import load_factors, save_factors
from tensorpress.checkpoints.loading import load_model
from tensorpress.commands.densify import densify
from tensorpress.commands.meta_model import MetaModel
from tensorpress.formats.modules import FactoredEmbedding, FactoredExperts, FactoredLinear
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import slices_of
from tensorpress.planning.artifacts import FactorPlacement
from tensorpress.planning.sizes import values_of
from tensorpress.running.oom import CPU
from tensorpress.stages.assembly import assemble
from tensorpress.stages.calibration import calibrate
from tensorpress.stages.decomposition import decompose_layer

LAYER = 1


@pytest.fixture(scope="module", params=[*sorted(FAMILIES), *sorted(FOUND)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of every family, as transformers saves it."""
    torch.manual_seed(0)
    sizes = {**SIZES, **FOUND}[request.param]
    config = AutoConfig.for_model(request.param, vocab_size=96, **sizes)
    network = auto_class(request.param).from_config(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # zero at first, and then a lost bias would not show
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    # what a checkpoint calls its tensors, the fetch calls as the running model does
    network.save_pretrained(folder, save_original_format=request.param not in RENAMED)
    return folder


def test_shapes_come_from_the_config_alone(model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    for layer, shape in enumerate(checkpoint.architecture.shapes):
        weights = checkpoint.weights(layer, shape.modules)
        for module, weight in weights.items():
            expected = shape.modules[module]
            assert weight.shape[-2:] == (expected.out_features, expected.in_features), module
            assert weight.ndim == 2 or weight.shape[0] == expected.slices


def test_a_found_family_counts_all_values(model: Path) -> None:
    architecture = Checkpoint.open(model).architecture
    if not isinstance(architecture.family, FoundFamily):
        return
    network = loaded(model)
    table = network.get_input_embeddings().weight.numel()
    assert values_of(architecture) == values_in(network) + table * architecture.tied
    sizes = MetaModel("m", architecture.config).tensors.values()
    assert sum(map(math.prod, sizes)) == values_in(network)


def values_in(network: torch.nn.Module) -> int:
    """Values of what a checkpoint of a model holds; tied ones once."""
    held = {value.data_ptr(): value.numel() for value in network.state_dict().values()}
    return sum(held.values())


def cases(model: Path) -> list[tuple[MethodSpec, str]]:
    """The example of every method, with each group that it is made for."""
    architecture = Checkpoint.open(model).architecture
    modules = chain(
        architecture.shape(LAYER).modules, architecture.shape(architecture.outer).modules
    )
    groups = dict.fromkeys(map(group_of, modules))
    in_heads = architecture.shape(LAYER).in_heads
    return [
        (spec, group)
        for spec in ALONE.values()
        for group in groups
        if group in spec.groups and (in_heads or not spec.by_heads)
        # what weighs inputs has none to weigh there
        if group != "embedding" or not spec.needs_moments
    ]


def test_every_method_runs_factored_and_equals_the_dense_rebuild(
    model: Path, tmp_path: Path
) -> None:
    ids = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(0))
    plain = loaded(model).eval()
    with torch.inference_mode():
        dense_logits = plain(**inputs(plain, ids)).logits
    for number, (spec, group) in enumerate(cases(model)):
        where = f"{spec.method} of {group}"
        folder = tmp_path / str(number)
        placement = compress(model, spec, group, folder)
        ours = load_model(folder / "out", CPU)
        used = watch(ours)
        twin = dense_twin(model, placement)
        with torch.inference_mode():
            expected = twin(**inputs(twin, ids)).logits
            found = ours(**inputs(ours, ids)).logits
        torch.testing.assert_close(
            found, expected, atol=3e-5, rtol=1e-4, msg=lambda m, where=where: f"{where}: {m}"
        )
        if spec.method in ("svd", "neurons", "heads"):
            densify(folder / "out", folder / "dense")
            again = loaded(folder / "dense").eval()
            with torch.inference_mode():
                logits = again(**inputs(again, ids)).logits
                torch.testing.assert_close(logits, found, atol=1e-4, rtol=1e-4)
        assert used, f"{where}: the compressed modules were bypassed"
        if spec.method not in ("dense", "drop"):
            assert not torch.allclose(found, dense_logits, atol=1e-5), where


def test_calibration_sees_every_module_and_changes_nothing(model: Path) -> None:
    network = loaded(model).eval()
    architecture = Checkpoint.open(model).architecture
    ids = torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(**inputs(network, ids)).logits
    passes, read = architecture.objective.passes, ids.numel()
    rows = ids if passes == 1 else torch.stack([ids, torch.full_like(ids, 1)], dim=1)
    if architecture.objective.reads == "images":
        (pixels,) = inputs(network, ids).values()
        rows = torch.cat([torch.arange(len(ids))[:, None], pixels.flatten(1)], dim=1)
        read = len(ids) * architecture.size("positions")
    moments = list(calibrate(network, architecture, rows, 2, CPU))
    with torch.inference_mode():
        after = network(**inputs(network, ids)).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    for shape, layer in zip(architecture.shapes, moments, strict=True):
        for module, size in shape.modules.items():
            site = site_of(module)
            assert layer[site].shape[-1] == size.in_features
            tokens = int(layer[f"{site}.tokens"].sum())
            top_k = architecture.size("top_k") if module.startswith("experts") else 1
            assert tokens == read * (top_k or 1) * passes, module
            assert float(layer[site].diagonal(dim1=-2, dim2=-1).sum()) > 0
            assert layer[f"{module}.gradient"].shape[-1] == size.out_features
            assert float(layer[f"{module}.gradient"].sum()) > 0, module


def watch(model: torch.nn.Module) -> list[str]:
    """Names of the factored modules that a forward pass reaches."""
    used: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, FactoredLinear | FactoredExperts | FactoredEmbedding):
            module.register_forward_hook(lambda *_, name=name: used.append(name))
    return used


def compress(model: Path, spec: MethodSpec, group: str, folder: Path) -> FactorPlacement:
    architecture = Checkpoint.open(model).architecture
    layer = architecture.outer if group == "embedding" else LAYER
    spec.check(architecture.shape(layer), group)
    factors, _, _ = decompose_layer(model, spec, group, layer, None, CPU)
    folder.mkdir()
    save_factors(factors, folder / "factors.safetensors")
    modules = tuple(architecture.shape(layer).group(group))
    placement = placed(layer, modules, spec, folder / "factors.safetensors")
    storage, _ = assemble(model, [placement], "float32", folder / "out")
    assert storage.dense_bits == 32 * values_in(loaded(model))
    assert 0 < storage.checkpoint_bytes - storage.stored_bits / 8 < 40_000
    return placement


def dense_twin(model: Path, placement: FactorPlacement) -> torch.nn.Module:
    """The plain model with the rebuilt weights put in place."""
    twin = loaded(model).eval()
    architecture = Checkpoint.open(model).architecture
    family, heads = architecture.family, architecture.shape(0).heads
    with torch.no_grad():
        for stored in load_factors(placement.factors, placement.modules):
            for index, module in enumerate(stored.modules):
                slices = slices_of(stored.store, stored.modules, index)
                if module.startswith("experts"):
                    experts = twin.get_submodule(family.experts_path(placement.layer))
                    view = family.expert_weights(experts)[module]
                    for e in range(view.shape[0]):
                        view[e] = stored.store.dense(slices[e])
                else:
                    path = family.linear_path(placement.layer, module)
                    weight = twin.get_submodule(path).weight
                    matrix = stored.store.dense(index)
                    if module == "embedding":
                        weight.copy_(matrix)
                    else:
                        put(family.linears[module], weight, matrix, heads)
                bias = None if module not in stored.turns else twin.get_submodule(path).bias
                if bias is not None:
                    turn_bias(family.linears[module], bias, stored.turns[module], heads)
    return twin


def turn_bias(slot, bias: torch.Tensor, turn: torch.Tensor, heads: int) -> None:
    """A bias whose part of a module is turned head by head, written by hand."""
    places = slot.outputs(torch.arange(len(bias))[None], heads)[0].view(len(turn), -1)
    for own, matrix in zip(places, turn, strict=True):
        turned = matrix @ bias[own]
        bias[own] = 0
        bias[own[: len(turned)]] = turned


def put(slot, weight: torch.Tensor, matrix: torch.Tensor, heads: int) -> None:
    """Write one matrix where its slot is, found by marking: independent of ``Slot.take``'s use."""
    places = torch.arange(weight.numel()).view(weight.shape)
    weight.view(-1)[slot.take(places, heads).flatten()] = matrix.flatten()
