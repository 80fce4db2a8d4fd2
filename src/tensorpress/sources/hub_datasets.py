"""Datasets of the Hugging Face hub: one clear error where they cannot be had. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line

UNKEYED = "a dataset is part of a key by its commit"


@dataclass(frozen=True)
class HubDataset:
    """A configuration of a hub dataset: at a pinned commit, or with ``None`` at its newest."""

    path: str
    name: str | None = None
    revision: str | None = None
    data_files: str | None = None


PATIENCE = 5.0
"""Seconds that the hub may take to say that it is there."""


@cache
def require(dataset: HubDataset, where: str) -> None:
    """Refuse a dataset that is neither cached nor served; ``where`` begins the error."""
    from datasets import load_dataset_builder

    with explained(dataset, where):
        load_dataset_builder(**_arguments(dataset))


def within_reach(dataset: HubDataset) -> bool:
    """Whether the hub or its cache has a dataset; that neither has it is soon known."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    known = {"repo_type": "dataset", "revision": dataset.revision}
    if isinstance(try_to_load_from_cache(dataset.path, "README.md", **known), str):
        return True
    try:  # once, where a download tries again and again
        HfApi().dataset_info(dataset.path, revision=dataset.revision, timeout=PATIENCE)
    except (OSError, HTTPError):
        return False
    return True


def column(dataset: HubDataset, split: str, name: str, where: str) -> list[str]:
    """The texts of one column of a split, from the cache or the hub."""
    from datasets import load_dataset

    with explained(dataset, where):
        return list(load_dataset(**_arguments(dataset), split=split)[name])


@contextmanager
def explained(dataset: HubDataset, where: str) -> Iterator[None]:
    """Turn what ``datasets`` raises without a cache or a hub into one line that says what to do.

    That is a ``TensorpressError``; ``where`` begins it.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        yield
    # a hub out of reach, a refusal and an unknown dataset are OSErrors; a cache that lacks the
    # configuration is a ValueError; a download that stays broken is an HTTPError, a file that is no
    # Parquet a DatasetsError
    except (OSError, ValueError, HTTPError, DatasetsError) as error:
        raise TensorpressError(
            f"{where}: dataset {dataset.path} is not in the cache and the hub does not give it; "
            f"connect once (for a gated one after 'hf auth login'), or name a local file with path "
            f"({one_line(error)[:200]})"
        ) from error


def _arguments(dataset: HubDataset) -> dict[str, Any]:
    given = {
        "path": dataset.path,
        "name": dataset.name,
        "revision": dataset.revision,
        "data_files": {"validation": dataset.data_files} if dataset.data_files else None,
    }
    return {key: value for key, value in given.items() if value is not None}
