"""Every format, small and filled with random factors."""

from __future__ import annotations

from typing import Any

import torch

from tensorpress.formats.base import Format
from tensorpress.formats.build import build
from tensorpress.formats.rounding import pack
from tensorpress.formats.sparse import Sparse

OUT, IN = 12, 8
SETTINGS = {
    "dense": {"slices": 2, "out_features": OUT, "in_features": IN},
    "zero": {"slices": 2, "out_features": OUT, "in_features": IN},
    "low_rank": {"slices": 2, "out_features": OUT, "in_features": IN, "rank": 3},
    "ragged": {"slices": 4, "out_features": OUT, "in_features": IN, "ranks": [3, None, 2, 1]},
    "tt_matrix": {
        "slices": 2,
        "out_features": OUT,
        "in_features": IN,
        "in_modes": [2, 2, 2],
        "out_modes": [2, 2, 3],
        "ranks": [1, 3, 4, 1],
    },
    "tt_sparse": {
        "slices": 2,
        "out_features": OUT,
        "in_features": IN,
        "in_modes": [2, 2, 2],
        "out_modes": [2, 2, 3],
        "ranks": [1, 3, 4, 1],
        "outliers": [3, 5],
    },
    "cp": {
        "slices": 3,
        "out_features": OUT,
        "in_features": IN,
        "rank": 5,
        "transposed": [False, False, True],
    },
    "mobe": {
        "slices": 3,
        "out_features": OUT,
        "in_features": IN,
        "rank": 5,
        "bases": 2,
        "activation": "tanh",
        "transposed": False,
    },
    "sparse": {"slices": 2, "out_features": OUT, "in_features": IN, "kept": [40, 25]},
    "two_four": {"slices": 2, "out_features": OUT, "in_features": IN},
    "tucker_matrix": {
        "slices": 2,
        "out_features": OUT,
        "in_features": IN,
        "out_rank": 5,
        "in_rank": 4,
    },
    "per_head": {
        "side": "out",
        "inner": {
            "format": "tucker_matrix",
            "settings": {
                "slices": 3,
                "out_features": 4,
                "in_features": IN,
                "out_rank": 2,
                "in_rank": 3,
            },
        },
    },
    "shared_basis": {
        "slices": 3,
        "out_features": OUT,
        "in_features": IN,
        "hidden": IN,
        "sides": ["in", "in", "out"],
        "widths": [OUT, 6, OUT],
        "rank": 3,
    },
    "tucker_slices": {
        "slices": 3,
        "out_features": OUT,
        "in_features": IN,
        "out_rank": 5,
        "in_rank": 4,
        "slice_rank": 2,
    },
    "tucker_heads": {
        "slices": 2,
        "out_features": OUT,
        "in_features": IN,
        "heads": 3,
        "sides": ["in", "out"],
        "hidden_rank": 5,
        "head_dim_rank": 2,
        "stack_rank": 2,
    },
    "sparse_tucker": {
        "slices": 2,
        "out_features": OUT,
        "in_features": IN,
        "heads": 3,
        "sides": ["in", "out"],
        "mixed": True,
        "core": {
            "format": "sparse",
            "settings": {"slices": 2, "out_features": 6, "in_features": 5, "kept": [20, 13]},
        },
    },
    "subset": {
        "parts": [
            {"format": "dense", "settings": {"slices": 2, "out_features": 3, "in_features": IN}},
            {"format": "dense", "settings": {"slices": 2, "out_features": OUT, "in_features": 3}},
        ],
        "sides": ["out", "in"],
        "width": 7,
    },
    "rounded": {
        "inner": {
            "format": "low_rank",
            "settings": {"slices": 2, "out_features": OUT, "in_features": IN, "rank": 3},
        },
        "bits": 5,
        "group_size": 7,
    },
    "sum": {
        "base": {
            "format": "low_rank",
            "settings": {"slices": 2, "out_features": OUT, "in_features": IN, "rank": 3},
        },
        "correction": {
            "format": "low_rank",
            "settings": {"slices": 2, "out_features": OUT, "in_features": IN, "rank": 2},
        },
    },
}


def filled(name: str, settings: dict[str, Any] | None = None) -> Format:
    """A format with random factors, in float64."""
    settings = settings or SETTINGS[name]
    store = build(name, settings).double()
    torch.manual_seed(0)
    values = {k: torch.randn_like(v) for k, v in store.named_parameters()}
    codes = {k: v for k, v in store.named_buffers() if k.endswith("_codes")}
    values |= {k: torch.randint_like(v, 256) for k, v in codes.items()}
    for index, count in enumerate(settings.get("outliers", ())):
        width = store.in_features
        flat = torch.randperm(store.out_features * width)[:count]
        values[f"place_{index}"] = store.pack(flat // width, flat % width)
    for path, each in store.named_modules():
        if isinstance(each, Sparse):
            entries = each.out_features * each.in_features
            kept = [torch.randperm(entries) < count for count in each.kept]
            masks = [each.pack(mask.view(-1, each.in_features)) for mask in kept]
            values[f"{path}.places".removeprefix(".")] = torch.stack(masks)
    if name == "two_four":
        groups = torch.rand(settings["slices"], store.out_features, store.in_features // 4, 4)
        places = groups.argsort()[..., :2].sort().values
        values["places"] = pack(places.to(torch.uint8), 2)
    if name == "subset" and "kept" in store.state_dict():
        values["kept"] = store.pack(torch.tensor([[0, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1, 1]]))
    return store.fill(**values)
