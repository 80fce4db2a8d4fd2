"""Benchmarks run at their smallest size; their numbers are for people, not for tests."""

from __future__ import annotations

import subprocess
import sys

from workspace import ROOT


def test_decompose_reaches_the_peers_errors() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/decompose.py", "--sizes", "small"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[1].split()[0] for row in rows] == ["TT", "TT", "Tucker", "TD-MoE"]
    for row in rows:
        assert float(row[6]) <= 1 + 1e-6, row  # our error over theirs


def test_forward_computes_the_same_product() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/forward.py", "--sizes", "small"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [line.split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert {row[1].strip() for row in rows} == {"tt_matrix", "low_rank"}
    for row in rows:
        assert float(row[9]) < 1e-5, row
