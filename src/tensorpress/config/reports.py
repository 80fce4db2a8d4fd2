"""Reports as written in ``params.yaml``, and the notebooks they are made from. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tensorpress.keying.section import Section
from tensorpress.sources.inputs import Name


@dataclass(frozen=True)
class Notebook:
    """The kind of the task whose results a notebook shows, and what it is about."""

    kind: str
    about: str


NOTEBOOKS: dict[str, Notebook] = {
    "verdict": Notebook("perplexity", "whether tensor decompositions compress the model usefully"),
    "pareto": Notebook("perplexity", "every recipe, the envelope, the best run for each budget"),
    "layers": Notebook("perplexity", "which layers bear compression, errors of every module"),
    "mismatch": Notebook("heterogeneity", "whether the parts of the model share subspaces at all"),
    "family": Notebook(
        "best_of_family", "whether any tensor format beats SVD of as many values, and by what"
    ),
    "head_axis": Notebook(
        "perplexity", "how much of the published mismatch is the published layout of heads"
    ),
    "generality": Notebook(
        "perplexity", "whether the verdict holds over models, widths and training"
    ),
    "moe": Notebook("moe", "experts and router before and after"),
    "recovery": Notebook(
        "perplexity", "what training afterwards takes back, and whether it closes the gap"
    ),
    "cost": Notebook("perplexity", "bytes, speed, memory, accuracy"),
    "run": Notebook("perplexity", "what the study itself cost, in time and memory"),
    "geometry": Notebook("geometry", "where compression moves the activations"),
    "super_weights": Notebook("restoration", "which entries must survive"),
}
"""Notebook of that name in ``notebooks/``: the one place where a new one is listed."""

if TYPE_CHECKING:
    NotebookName = str
else:
    NotebookName = Literal[*NOTEBOOKS]


class Report(Section):
    """One notebook rendered for one model."""

    notebook: NotebookName
    model: Name
    task: Name = Field(description="task shown: of the kind that the notebook is made for")
