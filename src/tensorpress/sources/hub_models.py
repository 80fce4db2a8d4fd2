"""Models of the Hugging Face hub: their files at a pinned commit, from the cache or the hub.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line
from tensorpress.sources.inputs import HubModel

UNKEYED = "a repository is part of a key by its commit"

CONFIG = "config.json"


def hub_names(name: str, model: HubModel) -> list[str]:
    """Names of a repository's files; with ``HF_HUB_OFFLINE`` of those that the cache holds.

    Asked once for a commit and kept in the cache, so that what cannot be fetched is never taken for
    what is not there.
    """
    from huggingface_hub import constants, get_cached_repo_tree, list_repo_files, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    repository, revision = model.repository, model.revision
    with _explained(name, repository, revision, "the list of files"):
        # keeps the list; without a hub that answers it gives what is cached
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=CONFIG))
        try:
            return [file.path for file in get_cached_repo_tree(repository, revision=revision)]
        except CachedRepoTreeNotFoundError:
            if constants.HF_HUB_OFFLINE:
                return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
            return list_repo_files(repository, revision=revision)


def hub_file(name: str, model: HubModel, filename: str) -> Path:
    """One file of a repository at its pinned revision, from the cache or the hub."""
    from huggingface_hub import hf_hub_download

    check_there(name, model, [filename], hub_names(name, model))
    with _explained(name, model.repository, model.revision, filename):
        return Path(hf_hub_download(model.repository, filename, revision=model.revision))


def commit_of(repository: str, revision: str) -> str:
    """The commit, 40 hex digits, that a branch or tag names to the hub, or to its cache."""
    from huggingface_hub import snapshot_download

    with _explained(repository.split("/")[1], repository, revision, "the commit"):
        folder = snapshot_download(repository, revision=revision, allow_patterns=CONFIG)
    return Path(folder).name


def check_there(name: str, model: HubModel, wanted: Iterable[str], names: Container[str]) -> None:
    """Refuse a repository that lacks a file, ``names`` being those of all its files."""
    from huggingface_hub import constants

    at = _at(name, model.repository, model.revision)
    missing = [file for file in wanted if file not in names]
    if missing and constants.HF_HUB_OFFLINE:
        raise TensorpressError(
            f"{at}: {missing[0]} is not in the cache, and HF_HUB_OFFLINE is set; "
            "connect once, or download the model and use source: local with its path"
        )
    if missing:
        raise TensorpressError(
            f"{at}: the repository has no {missing[0]}; allowed: one that has it"
        )


@contextmanager
def _explained(name: str, repository: str, revision: str, what: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = _at(name, repository, revision)
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise TensorpressError(
            f"{at}: the hub cannot be reached and {what} is not in the cache; connect once, "
            f"or download the model and use source: local with its path"
        ) from error
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise TensorpressError(
            f"{at}: the repository is gated; allowed: one whose terms you have accepted on its "
            "page, after 'hf auth login' or with HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise TensorpressError(
            f"models.{name}.repository: {repository!r} is not on the hub or is private; "
            "allowed: a repository that is there, a private one after 'hf auth login' or with "
            "HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise TensorpressError(
            f"models.{name}.revision: {repository} has no commit {revision}; "
            "allowed: a commit of its history, 40 hex digits"
        ) from error
    except HfHubHTTPError as error:
        raise TensorpressError(
            f"{at}: the hub refuses {what} ({one_line(error)[:200]}); allowed: a repository that "
            "it gives; HF_HUB_OFFLINE=1 takes the cache as it is"
        ) from error
    except (OSError, HTTPError) as error:
        raise TensorpressError(
            f"{at}: {what} cannot be fetched ({one_line(error)[:200]}); connect once, or download "
            "the model and use source: local with its path; HF_HUB_OFFLINE=1 takes the cache as it "
            "is"
        ) from error


def _at(name: str, repository: str, revision: str) -> str:
    return f"models.{name}: {repository}@{revision[:8]}"
