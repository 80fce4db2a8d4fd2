"""A small trained model of others' through the unchanged pipeline."""

from __future__ import annotations

import json

import pytest
from support.workspace import SHARED, Workspace, tiny_params

MODEL, TEXT = SHARED / "models/stories260K", SHARED / "data/tinystories_val.txt"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir() or not TEXT.is_file(), reason=f"{SHARED} is missing"),
]


def test_stories260k(tmp_path) -> None:
    params = tiny_params() | {"external": [str(SHARED)]}
    params["models"] = {"stories": {"source": "local", "path": str(MODEL)}}
    params["corpora"] = {"text": {"source": "file", "path": str(TEXT)}}
    params["tasks"]["heldout"] = {
        "kind": "perplexity",
        "corpus": "text",
        "window": 512,
        "characters": 200_000,
    }
    params["methods"]["svd"]["rank"] = 40
    params["reports"]["pareto"]["model"] = "stories"
    for recipe in params["recipes"].values():
        recipe["models"] = ["stories"]
    workspace = Workspace.create(tmp_path / "project", params)
    workspace.snakemake()
    records = json.loads(workspace.run("tensorpress", "query", "pareto", "--json").stdout)
    found = {record["recipe"]: record["perplexity"] for record in records}
    assert found["baseline"] == pytest.approx(4.245, rel=0.005)
    assert found["baseline"] < found["svd"] < found["drop"]
