"""TD-MoE's search of ranks: as if all candidates were tried one by one, and quick."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest
import torch
import yaml
from support.workspace import ROOT

from tensorpress.architectures.layers import ModuleShape
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import sizes
from tensorpress.config.params import parse
from tensorpress.linalg.tucker import mode_spectrum
from tensorpress.methods.td_moe import Spec, TuckerRanks, budget_of, choose_ranks, planned_ranks
from tensorpress.sources.contents import model_config

SHAPES = [ModuleShape(24, 40, 8), ModuleShape(33, 17, 5), ModuleShape(6, 64, 12)]


def one_by_one(shape: ModuleShape, spec: Spec) -> Iterator[TuckerRanks]:
    """Xu et al.'s formula, in Python's own integers and divisions."""
    compressed, align = spec.experts == "compress", spec.alignment
    for expert in range(1, shape.slices + 1) if compressed else (shape.slices,):
        for out in range(min(align, shape.out_features), shape.out_features + 1, align):
            left = budget_of(shape, spec) - shape.out_features * out
            left -= shape.slices * expert if compressed else 0
            steps = left / (expert * out + shape.in_features) / align
            whole = round if spec.rank_choice == "nearest_budget" else math.floor
            if align * whole(steps) >= align:
                yield TuckerRanks(expert, out, min(align * whole(steps), shape.in_features))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("experts", ["preserve", "compress"])
@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("ratio", [0.02, 0.2, 0.45, 0.7])
def test_ranks_are_those_of_plain_enumeration(
    shape: ModuleShape, experts: str, alignment: int, ratio: float
) -> None:
    """Ties go to the first in either case: fewest experts, then lowest output rank."""
    settings = {"method": "td_moe", "experts": experts, "alignment": alignment, "ratio": ratio}
    published = Spec(**settings, rank_choice="nearest_budget")
    found = list(one_by_one(shape, published))
    budget, compressed = budget_of(shape, published), experts == "compress"
    nearest = min(found, key=lambda r: abs(r.values(shape, compressed) - budget), default=None)
    assert planned_ranks(shape, published) == nearest

    ours = Spec(**settings)
    found = list(one_by_one(shape, ours))
    most = max(found, key=lambda r: r.values(shape, compressed), default=None)
    assert planned_ranks(shape, ours) == most
    if not found:
        return
    generator = torch.Generator().manual_seed(0)
    sizes = (shape.slices, shape.out_features, shape.in_features)
    for stack in (torch.randn(*sizes, generator=generator), torch.zeros(sizes)):
        tails = [
            [float(squares[rank:].flip(0).cumsum(0)[-1]) if rank < len(squares) else 0.0
             for rank in range(len(squares) + 1)]
            for squares in (mode_spectrum(stack, mode) for mode in range(3))
        ]  # fmt: skip
        best = min(found, key=lambda r: tails[0][r.expert] + tails[1][r.out] + tails[2][r.inner])
        assert choose_ranks(stack, shape, ours) == best


def test_ties_are_met() -> None:
    """The shapes above have candidates of equal size, or the test of ties would be none."""
    spec = Spec(method="td_moe", ratio=0.2, experts="compress", alignment=1)
    values = [ranks.values(SHAPES[0], True) for ranks in one_by_one(SHAPES[0], spec)]
    assert values.count(max(values)) > 1


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss"])
def test_planning_the_study_s_mixtures_with_compressed_experts_is_quick(name: str) -> None:
    study = yaml.safe_load((ROOT / "studies/paper.yaml").read_text(encoding="utf-8"))
    for method in ("td-moe-20", "td-moe-40"):
        study["methods"][method] |= {"experts": "compress"}
    params = parse(study)
    spec = params.models[name].model_copy(update={"path": str(ROOT / params.models[name].path)})
    model = MetaModel(name, model_config(name, spec))
    began = time.process_time()
    planned = list(sizes(model, params))
    assert len(planned) == 2 * (24 if name == "qwen3-moe" else 12)
    assert time.process_time() - began < 10  # once more than a minute
