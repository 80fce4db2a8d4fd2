"""Files that travel beside a model's weights: tokenizer, chat templates, processors, generation.

Torch-free. The one list of them: for models of a folder and of the hub, and for the checkpoints
that are made from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from tensorpress.errors import TensorpressError
from tensorpress.sources.custom_code import SEAL

TOKENIZER_CONFIG = "tokenizer_config.json"
PREPROCESSOR = "preprocessor_config.json"
TEMPLATES = "additional_chat_templates"
"""Folder of the templates beside the default one; transformers reads no other folder."""
CONFIGS = (
    TOKENIZER_CONFIG,
    PREPROCESSOR,
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
)
"""Those that can name classes, and so code (``custom_code``)."""
VOCABULARIES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("*.model",),
    ("*.tiktoken",),
    ("tekken.json",),
)
"""Files that hold a vocabulary and its merges; the first complete set counts."""
COMPANIONS = (
    *CONFIGS,
    *dict.fromkeys(pattern for names in VOCABULARIES for pattern in names),
    "tokenizer.*.json",
    "tokenizer.model.*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    f"{TEMPLATES}/*.jinja",
    "generation_config.json",
)
CODE_READS = ("*.json", "*.txt")
"""What code that the params trust may read too, whatever its name."""
OTHERS = ("config.json", "*.index.json", SEAL)
"""What is written anew for every checkpoint."""


def companions(names: Iterable[str], with_code: bool = False) -> list[str]:
    """Those of a model's files (``name`` or ``folder/name``) that travel, in order.

    ``with_code``: for a model whose own code the params trust.
    """
    patterns = (*COMPANIONS, *(CODE_READS if with_code else ()))
    return [name for name in matching(names, patterns) if not matching([name], OTHERS)]


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Names that match a pattern, in order; a star does not lead into folders."""
    wanted = list(patterns)
    return sorted(
        name
        for name in names
        if any(name.count("/") == p.count("/") and fnmatchcase(name, p) for p in wanted)
    )


def files_of(directory: Path) -> list[str]:
    """Names of a folder's own files, and of its chat templates."""
    own = [path.name for path in directory.iterdir() if path.is_file()]
    templates = (directory / TEMPLATES).glob("*.jinja")
    return [*own, *(f"{TEMPLATES}/{path.name}" for path in templates if path.is_file())]


def copy_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Copy files of a folder, and the folders they lie in."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def vocabulary(names: Iterable[str], where: str) -> list[str]:
    """The files among ``names`` that hold the vocabulary; without any: ``TensorpressError``."""
    given = list(names)
    for patterns in VOCABULARIES:
        found = [matching(given, [pattern]) for pattern in patterns]
        if all(found):
            return [name for each in found for name in each]
    allowed = ", ".join(" with ".join(patterns) for patterns in VOCABULARIES)
    raise TensorpressError(f"{where}: no tokenizer; allowed: {allowed} beside the weights")


def check_tokenizer(
    directory: Path, rows: int, where: str, largest: Callable[[Path, str], int] | None = None
) -> None:
    """Refuse a folder by what its files tell of the tokenizer, before transformers reads them.

    ``rows`` of the embedding; ``largest`` is ``largest_id``, or what remembers it.
    """
    file = directory / vocabulary(files_of(directory), where)[0]
    if file.name == "tokenizer.json":
        check_rows((largest or largest_id)(file, where), rows, where)


def largest_id(tokenizer_json: Path, where: str) -> int:
    """The largest token id of a ``tokenizer.json``, added tokens included.

    ``TensorpressError`` if the file is not of the tokenizers library.
    """
    try:
        read = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        vocabulary = read["model"]["vocab"]
        # Unigram lists its tokens, the others map them to ids
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in read.get("added_tokens") or []]
        return max((int(token) for token in (*ids, *added)), default=-1)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TensorpressError(
            f"{where}: {tokenizer_json} is not allowed; allowed: JSON with the vocabulary of a "
            "model, as the tokenizers library writes it"
        ) from error


def check_rows(largest: int, rows: int, where: str) -> None:
    """Refuse a tokenizer with tokens that the embedding, of so many ``rows``, has no row for."""
    if largest >= rows:
        raise TensorpressError(
            f"{where}: the tokenizer has token {largest} and the embedding {rows} rows (vocab_size "
            f"of config.json); allowed: tokens up to {rows - 1}, so leave out the tokens that were "
            "added, or resize the embedding (resize_token_embeddings) and save the model again"
        )
