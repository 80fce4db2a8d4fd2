"""Inputs under a storage provider are found where the plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorpress.staging import lead_to


def test_the_plans_paths_lead_to_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bucket = Path(".snakemake/storage/s3/bucket/results/project/results")
    model, corpus = bucket / "fetch/model-0123456789", bucket / "fetch/text-0123456789.txt"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    corpus.write_text("words")
    for _ in range(2):  # jobs of one pod meet the links of those before
        lead_to([model, corpus, Path("notebooks/pareto.ipynb")])
    assert Path("results/fetch/model-0123456789/config.json").read_text() == "{}"
    assert Path("results/fetch/text-0123456789.txt").read_text() == "words"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".snakemake", "results"]


def test_inputs_in_their_place_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = Path("results/fetch/text-0123456789.txt")
    corpus.parent.mkdir(parents=True)
    corpus.write_text("words")
    lead_to([corpus, corpus.absolute()])
    assert corpus.read_text() == "words"
    assert not corpus.is_symlink()
