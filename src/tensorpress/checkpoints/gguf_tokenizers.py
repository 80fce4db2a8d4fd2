"""The tokenizer in a GGUF file's metadata, as files that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line
from tensorpress.sources.companions import VOCABULARIES, files_of, matching


def write_tokenizer(file: Path, target: Path, where: str) -> None:
    """Write the tokenizer of a GGUF ``file`` into ``target``, unless one was copied there."""
    names = files_of(target)
    if any(all(matching(names, [each]) for each in patterns) for patterns in VOCABULARIES):
        return
    try:
        architecture, tokens, settings = get_gguf_tokenizer(str(file))
        backend, _ = convert_gguf_tokenizer(architecture, tokens)
    except Exception as error:  # of whatever the metadata holds
        raise TensorpressError(
            f"{where}: the tokenizer in {file.name} cannot be built ({type(error).__name__}: "
            f"{one_line(error)[:200]}); allowed: the same file in a folder with the model's "
            "tokenizer.json"
        ) from error
    own = _without_others(backend, len(tokens["tokens"]))
    PreTrainedTokenizerFast(tokenizer_object=own, **settings).save_pretrained(target)


def _without_others(backend: Tokenizer, count: int) -> Tokenizer:
    """Only the tokens of the file: transformers adds GPT-2's end of text to those that lack it."""
    read = json.loads(backend.to_str())
    read["added_tokens"] = [token for token in read["added_tokens"] if token["id"] < count]
    return Tokenizer.from_str(json.dumps(read))
