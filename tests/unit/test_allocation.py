"""A budget that several modules share: ranks by predicted loss, shares by importance."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from support.stages import calibrated
from support.workspace import tiny_params, tiny_text

from tensorpress.analysis.allocation import Points, allocate, shares_by_importance
from tensorpress.analysis.damage import (
    Sensitivity,
    damage_nats,
    damage_of_ranks,
    sensitivity,
)
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import ANGLE
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.loading import load_model
from tensorpress.checkpoints.moments import save_moments
from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.files.paths import moments
from tensorpress.linalg.truncated_svd import truncated_svd, weighted_svd
from tensorpress.methods import svd, tt
from tensorpress.methods.allocation import Curve
from tensorpress.methods.budget import Budget, Ranked
from tensorpress.methods.factors import stacked
from tensorpress.planning.plan import Plan
from tensorpress.running.oom import CPU
from tensorpress.stages.allocation import by_importance, by_loss
from tensorpress.stages.decomposition import decompose_layer
from tensorpress.stages.options import curves_of


def curve(squares: list[float], cost: int, whole: int | None = None) -> Points:
    """Damage of every rank of a matrix of these squared singular values, and of the whole."""
    tails = [0.5 * sum(squares[rank:]) for rank in range(len(squares) + 1)]
    values = [cost * rank for rank in range(len(tails))]
    if whole is not None:
        values, tails = [*values, whole], [*tails, 0.0]
    return Points(np.array(values), np.array(tails))


def test_two_matrices_of_known_spectra() -> None:
    # gains a value: 2, 1, 0.05 and 1.5, 0.375, 0.025
    curves = [curve([8, 4, 0.2], 2), curve([12, 3, 0.2], 4)]
    points = {allowed: allocate(curves, allowed).points for allowed in (0, 2, 6, 8, 12, 14, 18)}
    assert points == {
        0: [0, 0], 2: [1, 0], 6: [1, 1], 8: [2, 1], 12: [2, 2], 14: [3, 2], 18: [3, 3],
    }  # fmt: skip
    # the second matrix's next rank does not fit, the first one's does
    assert allocate(curves, 11).points == [3, 1]


def test_a_price_falls_as_the_budget_grows() -> None:
    curves = [curve([8, 4, 0.2], 2), curve([12, 3, 0.2], 4)]
    prices = [allocate(curves, allowed).price for allowed in range(2, 19)]
    assert prices == sorted(prices, reverse=True)
    # the first step that there is no room for, and none
    assert (prices[0], prices[-1]) == (pytest.approx(1.5), 0.0)


def test_equal_spectra_get_equal_ranks_and_a_useless_matrix_none() -> None:
    known, useless = [5.0, 3.0, 1.0, 0.5], [0.0] * 4
    curves = [curve(known, 3), curve(known, 3), curve(useless, 3)]
    assert [allocate(curves, 6 * k).points for k in range(5)] == [[k, k, 0] for k in range(5)]


def test_a_matrix_is_taken_whole_where_that_is_cheaper() -> None:
    """Two ranks of four take 8 values, the matrix itself 10."""
    flat = Points(np.array([0, 4, 8, 10]), np.array([2.0, 1.5, 1.0, 0.0]))
    steep = curve([9.0, 0.1], 4)
    assert allocate([flat, steep], 14).points == [3, 1]
    # no room for it whole: what is left is spent on the ranks that gain most
    assert allocate([flat, steep], 12).points == [2, 1]


def test_the_choice_is_nearly_the_best_there_is() -> None:
    """Against all combinations: what the last step leaves over is all that is lost."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        curves = [
            curve(sorted(draw.exponential(size=4), reverse=True), int(draw.integers(1, 4)), 17)
            for _ in range(3)
        ]
        allowed = int(draw.integers(5, 40))
        found = damage_at(curves, allocate(curves, allowed).points)
        ways = itertools.product(*(range(len(each.values)) for each in curves))
        fits = [way for way in ways if values_at(curves, way) <= allowed]
        best = min(damage_at(curves, way) for way in fits)
        largest = max(float(each.damages[0] - each.damages[1]) for each in curves)
        assert best - 1e-12 <= found <= best + largest


def damage_at(curves: list[Points], points) -> float:
    return sum(float(c.damages[p]) for c, p in zip(curves, points, strict=True))


def values_at(curves: list[Points], points) -> int:
    return sum(int(c.values[p]) for c, p in zip(curves, points, strict=True))


def test_a_floor_beyond_the_budget_is_refused() -> None:
    least = Points(np.array([10, 12]), np.array([1.0, 0.0]))
    with pytest.raises(TensorpressError, match="least ranks take 20 values, more than the 19"):
        allocate([least, least], 19)


def test_shares_are_in_proportion_up_to_all() -> None:
    values: NDArray = np.array([10.0, 10.0, 20.0])
    found = shares_by_importance(np.array([8.0, 1.0, 1.0]), values, 0.5)
    # the first would keep 32 of its 10; the others share what is left
    np.testing.assert_allclose(found, [1.0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(shares_by_importance(np.zeros(3), values, 0.5), [0.5] * 3)


def known_of(out: int, inner: int, slices: int) -> Sensitivity:
    x = torch.randn(slices, 50, inner) * torch.logspace(0, -1, inner)
    return Sensitivity(x.mT @ x / 50, torch.rand(slices, out), torch.linspace(0.2, 1, slices))


@pytest.mark.parametrize("whiten", ["none", "input", "both"])
def test_damage_of_every_rank_from_one_factorisation(whiten: str) -> None:
    torch.manual_seed(0)
    weight, known = torch.randn(2, 9, 7).double(), known_of(9, 7, 2)
    if whiten == "none":
        left, right, _ = truncated_svd(weight, 5)
    else:
        gradient = known.gradient if whiten == "both" else None
        left, right = weighted_svd(weight, known.moment, 5, gradient)
    found = damage_of_ranks(weight, left, right, known)
    assert found.shape == (2, 6)
    wide = Sensitivity(known.moment.double(), known.gradient.double(), known.reached.double())
    for rank in range(6):
        change = left[..., :rank] @ right[:, :rank] - weight
        assert float(found[:, rank].sum()) == pytest.approx(damage_nats(change, wide), rel=1e-9)


def test_damage_is_half_the_tail_in_the_metric_of_the_loss() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 12, 12).double()
    gradient = torch.rand(1, 12).double() + 0.1
    root = torch.randn(12, 12).double()
    known = Sensitivity((root @ root.mT)[None], gradient, torch.tensor([0.25]))
    factors = weighted_svd(weight, known.moment, 12, gradient)
    squares = torch.linalg.svdvals(gradient.sqrt().T * weight[0] @ root).square()
    tails = torch.cat([squares.flip(0).cumsum(0).flip(0), torch.zeros(1)])
    damages = damage_of_ranks(weight, *factors, known)[0]
    torch.testing.assert_close(damages[:-1], 0.125 * tails[:-1], rtol=1e-6, atol=1e-9)


def experts(layer: int, module: str, gains: list[list[float]]) -> list[Curve]:
    """Curves of matrices of 6 values a rank and 20 whole, of four directions that gain so much."""
    return [
        Curve(layer=layer, module=module, index=index, rank_values=6, whole_values=20,
              damages=tuple(sum(each[rank:]) for rank in range(len(each))))
        for index, each in enumerate(gains)
    ]  # fmt: skip


def test_what_has_a_rank_of_its_own() -> None:
    curves = [
        *experts(0, "experts.up", [[9, 8, 7, 6], [1, 0.5, 0.1, 0]]),
        *experts(0, "experts.down", [[0.3, 0.2, 0.1, 0], [0.3, 0.2, 0.1, 0]]),
    ]
    found = {}
    for granularity in ("matrix", "module", "layer"):
        budget = Budget(saved=0.5, allocate="loss", granularity=granularity, floor=0)
        made = by_loss(curves, budget)
        assert made.stored_values <= made.dense_values / 2 == 40
        assert made.price is not None
        found[granularity] = ({r.module: r.ranks for r in made.layers[0].ranks}, made.damage)
    assert found["matrix"][0] == {"experts.up": (None, 2), "experts.down": (1, 0)}
    assert found["module"][0] == {"experts.up": (None, None), "experts.down": (0, 0)}
    assert found["layer"][0] == {"experts.up": (1, 1), "experts.down": (1, 1)}
    assert found["matrix"][1] < found["module"][1] < found["layer"][1]


def test_shares_of_layers_of_several_sizes() -> None:
    shapes = {3: {"ffn.up": ModuleShape(4, 5)}, 7: {"ffn.up": ModuleShape(8, 5)}}
    budget = Budget(saved=0.5, allocate="importance")
    made = by_importance([1.0, 1.0], shapes, budget)
    assert [(each.layer, each.kept) for each in made.layers] == [(3, 0.5), (7, 0.5)]
    assert (made.dense_values, made.stored_values) == (60, 30)


def test_ranks_of_slices_are_carried_out() -> None:
    """Ragged, whole and missing slices are what each alone would be."""
    torch.manual_seed(0)
    weight = torch.randn(4, 8, 6)
    shape = ModuleShape(8, 6, 4)
    layer = LayerShape(6, 1, 1, 6, {"experts.up": shape})
    inputs = {"experts.up": known_of(8, 6, 4).moment}
    ranks = (2, None, 0, 3)
    budget = of_advice(ranks)
    spec = svd.Spec(method="svd", whiten="input", budget=budget)
    (made,) = svd.decompose({"experts.up": weight}, layer, spec, inputs)
    assert made.stored_values == 14 * 5 + 48
    for index, rank in enumerate(ranks):
        expected = weight[index] if rank is None else torch.zeros(8, 6)
        if rank:
            left, right = weighted_svd(weight[index], inputs["experts.up"][index], rank)
            expected = (left @ right).float()
        torch.testing.assert_close(made.store.dense(index), expected)
    error = float((made.store.stacked() - weight).norm() / weight.norm())
    assert made.lower_bound is not None
    assert made.lower_bound <= error


def of_advice(ranks: tuple[int | None, ...]) -> Budget:
    """A budget that the advice has filled in."""
    given = Budget(saved=0.5, allocate="loss")
    return given.model_copy(update={"ranks": (Ranked(module="experts.up", ranks=ranks),)})


@pytest.mark.parametrize(
    ("ranks", "format"), [((2, 2), "low_rank"), ((None, None), "dense"), ((0, 0), "zero")]
)
def test_equal_ranks_need_no_ragged_format(ranks: tuple, format: str) -> None:
    layer = LayerShape(6, 1, 1, 6, {"experts.up": ModuleShape(8, 6, 2)})
    budget = of_advice(ranks)
    spec = svd.Spec(method="svd", budget=budget)
    (made,) = svd.decompose({"experts.up": torch.randn(2, 8, 6)}, layer, spec, None)
    assert made.store.name == format


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValidationError, match="floor belongs to allocate: loss, not to 'uniform'"):
        Budget(saved=0.5, floor=2)
    with pytest.raises(ValidationError, match=r"budget\.allocate: 'loss' is not allowed for tt"):
        tt.Spec(method="tt", budget=Budget(saved=0.5, allocate="loss"))
    layer = LayerShape(6, 1, 1, 6, {"ffn.up": ModuleShape(8, 6)})
    spec = svd.Spec(method="svd", budget=Budget(saved=0.5, allocate="loss", floor=4))
    with pytest.raises(TensorpressError, match=r"budget\.floor: 4 is above the limit at ffn\.up"):
        spec.check(layer, "ffn")


def test_curves_of_a_model_become_ranks_that_keep_its_budget(
    moe_directory: Path, tmp_path: Path
) -> None:
    """From moments to factors: what was promised is stored, what was predicted is lost."""
    windows = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
    sites = calibrated(moe_directory, windows, 4)
    save_moments(sites, windows.numel(), tmp_path / "moments")
    checkpoint = Checkpoint.open(moe_directory)
    shapes = checkpoint.architecture.shapes[:-1]
    budget = Budget(saved=0.6, allocate="loss", floor=0)
    spec = svd.Spec(method="svd", budget=budget, whiten="both")
    curves = []
    for layer, shape in enumerate(shapes):
        weights = LayerWeights(checkpoint, layer, tuple(shape.modules), CPU)
        curves += curves_of(weights, layer, shape, sites[layer], windows.numel(), spec)
    made = by_loss(curves, budget)
    file = tmp_path / "advice.json"
    file.write_text(made.model_dump_json(), encoding="utf-8")
    damage, stored = 0.0, 0
    for layer, shape in enumerate(shapes):
        filled = spec.completed([file], layer)
        known = {m: sensitivity(sites[layer], m, windows.numel()) for m in shape.modules}
        for group in ("attention", "experts"):
            factors, _, weights = decompose_layer(
                moe_directory, filled, group, layer, moments(tmp_path / "moments", layer), CPU
            )
            stored += sum(each.stored_values for each in factors)
            for each in factors:
                (module,) = each.modules
                change = each.store.stacked() - stacked(weights[module])
                damage += damage_nats(change, known[module])
    dense = sum(module.numel for shape in shapes for module in shape.modules.values())
    assert stored == made.stored_values
    assert 0.98 * 0.4 * dense < stored <= 0.4 * dense
    assert damage == pytest.approx(made.damage, rel=1e-3)
    # better than every matrix at the same share
    uniform = sum(
        curve.damages[int(0.4 * curve.whole_values) // curve.rank_values] for curve in curves
    )
    assert damage < 0.9 * uniform


def test_calibration_knows_how_far_a_layer_turns_its_input(llama_directory: Path) -> None:
    windows = torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0))
    found = calibrated(llama_directory, windows, 4)[0][ANGLE]
    model = load_model(llama_directory, CPU)
    with torch.no_grad():
        before, after, *_ = model(windows, output_hidden_states=True).hidden_states
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=-1).clamp(0, 1)
    assert float(found) == pytest.approx(float(cosines.arccos().mean()) / math.pi, rel=1e-5)


def test_modules_of_a_step_share_a_budget(llama_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(tiny_text(), encoding="utf-8")
    params = tiny_params() | {"external": [str(llama_directory), str(tmp_path)]}
    params["models"]["tiny"]["path"] = str(llama_directory)
    params["corpora"]["text"]["path"] = str(tmp_path / "text.txt")
    params["layer_sets"] = {"all": "all", "one": [1]}
    budget = {"saved": 0.5, "allocate": "loss"}
    params["methods"] = {"svd": {"method": "svd", "budget": budget}}
    recipe = {**params["recipes"]["svd"], "layers": ["all", "one"], "tasks": ["heldout"]}
    params["recipes"] = {
        name: {**recipe, "steps": [{"modules": [name], "method": "svd"}]}
        for name in ("ffn", "attention")
    }
    plan = Plan(parse(params))
    layers = next(iter(plan.models.values())).architecture.layers
    # each step on each set of layers has a budget of its own, what may be chosen is one
    assert len(plan.advices) == 4
    assert len(plan.options) == 1
    assert len(plan.asked_options) == layers
    assert not plan.mixtures
    one = next(a for a in plan.advices.values() if a.scope.layers == (1,))
    assert len(one.option_files) == 1
    budget["floor"] = 9
    with pytest.raises(TensorpressError, match=r"methods\.svd\.budget\.floor: 9 takes more than"):
        Plan(parse(params))
    del budget["floor"]
    params["calibration"]["gradients"] = False
    with pytest.raises(TensorpressError, match=r"calibration\.gradients: False is not allowed"):
        Plan(parse(params))
    budget["allocate"] = "importance"
    assert len(Plan(parse(params)).options) == 1
    params["recipes"]["ffn"]["steps"][0]["modules"] = ["embedding"]
    with pytest.raises(TensorpressError, match=r"methods\.svd\.budget\.allocate: an embedding"):
        Plan(parse(params))
