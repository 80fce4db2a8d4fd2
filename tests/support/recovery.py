"""Compressed checkpoints that are recovered by a few steps of LoRA."""

from __future__ import annotations

from pathlib import Path

import torch

from support.stages import compress
from tensorpress.checkpoints.loading import load_model
from tensorpress.config.recovery import Adapters
from tensorpress.running.oom import CPU
from tensorpress.stages.recovery import recover
from tensorpress.stages.recovery_checkpoint import write_recovered

FAST = {
    "train": "adapters",
    "rank": 2,
    "steps": 6,
    "accumulation": 1,
    "batch": 4,
    "window": 16,
    "learning_rate": 0.02,
}
IDS = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(0))
WINDOWS = torch.arange(16).repeat(8, 1) + torch.arange(8)[:, None]
LLAMA = [
    ("svd", {"rank": 5}, "attention"),
    ("tt", {"order": 3, "rank": 4}, "ffn"),
    ("tt_sparse", {"order": 3, "rank": 4, "outliers": 0.01}, "ffn"),
    ("tt_per_head", {"order": 2, "rank": 3}, "attention"),
    ("tucker_per_head", {"ranks": {"hidden": 6, "head_dim": 4}}, "attention"),
    ("tucker_qkvo", {"ranks": {"hidden": 12, "head_dim": 4, "stack": 2}}, "attention"),
    ("tucker_qkvo_separate", {"rank": 7}, "attention"),
    ("tucker_ffn", {"ranks": {"out": 16, "in": 12}}, "ffn"),
    ("heads", {"rank": 3}, "attention"),
    ("neurons", {"neurons": 20}, "ffn"),
    ("dense", {}, "attention"),
]
MOE = [
    ("svd", {"rank": 5}, "experts"),
    ("td_moe", {"ratio": 0.3}, "experts"),
    ("neurons", {"neurons": 16}, "experts"),
]


def recovered(model: Path, case: tuple, folder: Path, **settings):
    """Compress, recover and write; what the model in training computed at its end, and the row."""
    architecture, _, storage = compress(model, *case, folder)
    spec = Adapters(**{**FAST, **settings})
    tuned = load_model(folder / "out", CPU)
    adapters = recover(tuned, architecture, WINDOWS, spec, 0, CPU)
    with torch.inference_mode():
        expected = tuned.eval()(input_ids=IDS).logits
    row = write_recovered(folder / "out", adapters, spec, "float32", storage, folder / "recovered")
    overhead = row.checkpoint_bytes - row.stored_bits / 8
    assert 0 < overhead < 25_000
    assert row.dense_bits == storage.dense_bits
    return expected, storage, row
