"""tt_sparse keeps the super weights that it is told of, and counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.published import SuperWeight
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.errors import TensorpressError
from tensorpress.methods.registry import load
from tensorpress.running.oom import CPU
from tensorpress.stages.decomposition import decompose_layer


def test_tt_sparse_keeps_super_weights_where_they_belong(
    planted_directory: Path, tmp_path: Path
) -> None:
    """A small entry, that would not be kept for its size, is kept in its layer and module only."""
    settings = {"order": 2, "rank": 1, "outliers": 1e-9}
    given = [{"layer": 1, "row": 4, "column": 9}, {"layer": 2, "row": 1, "column": 1}]
    plain = load("tt_sparse").Spec(method="tt_sparse", **settings)
    spec = load("tt_sparse").Spec(method="tt_sparse", **settings, super_weights=given)
    kept: dict[int, list[tuple[int, ...]]] = {}
    for layer in range(3):
        factors, _, weights = decompose_layer(planted_directory, spec, "ffn", layer, None, CPU)
        shape = Checkpoint.open(planted_directory).architecture.shape(layer)
        layouts = spec.layouts(shape, "ffn")
        for each, layout in zip(factors, layouts, strict=True):
            rows, columns = each.store.coordinates(0)
            extra = set(zip(rows.tolist(), columns.tolist(), strict=True))
            matrix = weights[each.modules[0]]
            extra.remove(divmod(int(matrix.abs().argmax()), matrix.shape[1]))
            assert layout.settings["outliers"] == [1 + len(extra)]
            kept.setdefault(layer, []).extend(extra)
            for place in extra:
                assert float(each.store.dense(0)[place]) == pytest.approx(float(matrix[place]))
    assert kept == {0: [], 1: [(4, 9)], 2: [(1, 1)]}
    assert spec.depends_on_layer_index
    assert not plain.depends_on_layer_index


def test_tt_sparse_refuses_super_weights_outside_and_unknown_modules() -> None:
    layer = LayerShape(8, 1, 1, 8, {"ffn.down": ModuleShape(8, 12)}, number=3)
    spec = load("tt_sparse").Spec(
        method="tt_sparse", order=2, rank=2, super_weights=[{"layer": 3, "row": 8, "column": 0}]
    )
    with pytest.raises(TensorpressError, match=r"super_weights: \(8, 0\) is outside of ffn\.down"):
        spec.layouts(layer, "ffn")
    with pytest.raises(ValueError, match=r"allowed: attention\.q"):
        SuperWeight(layer=0, module="ffn.dwn", row=0, column=0)


def test_sizes_tell_layers_with_super_weights_apart(llama_directory: Path) -> None:
    from tensorpress.commands.meta_model import MetaModel

    config = Checkpoint.open(llama_directory).config
    spec = load("tt_sparse").Spec(
        method="tt_sparse", order=2, rank=2, super_weights=[{"layer": 1, "row": 4, "column": 9}]
    )
    model = MetaModel("m", config)
    counts = [
        {layout.modules[0]: layout.settings["outliers"] for layout, _ in built}
        for built in (model.stores("tt", spec, None, "ffn", layer) for layer in range(3))
    ]
    assert [count["ffn.down"] for count in counts] == [[1], [2], [1]]
    assert [count["ffn.up"] for count in counts] == [[1], [1], [1]]
