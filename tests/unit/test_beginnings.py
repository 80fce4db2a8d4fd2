"""Whether texts begin with BOS, as transformers' tokenizers of the same files do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.gguf import write_gguf
from support.untrusted import local, update
from support.workspace import save_tiny, tiny_llama, tiny_tokenizer
from tokenizers.processors import Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tensorpress.commands import init as command
from tensorpress.commands.init import init
from tensorpress.planning.foresight import Machine
from tensorpress.sources.beginnings import begins_with_bos

BOS = "<s>"


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """One whose texts are put into a template, as Llama 3's are."""
    made = tiny_tokenizer(290)
    made.add_special_tokens({"bos_token": BOS})
    if template:
        tokens = [(BOS, made.bos_token_id)]
        processor = TemplateProcessing(single=template, special_tokens=tokens)
        made.backend_tokenizer.post_processor = Sequence([processor])
    return made


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        (f"{BOS} $A", {}, True),
        (f"$A {BOS}", {}, False),
        (None, {}, False),
        (None, {"add_bos_token": True}, True),
        (f"{BOS} $A", {"add_bos_token": False}, False),
        (None, {"add_bos_token": True, "bos_token": None}, False),
        (f"{BOS} $A", {"bos_token": {"content": BOS}}, True),
    ],
)
def test_of_a_folder(tmp_path: Path, template: str | None, settings: dict, expected: bool) -> None:
    made = tokenizer(template)
    made.save_pretrained(tmp_path)
    if not settings:
        first = PreTrainedTokenizerFast.from_pretrained(tmp_path)("A text")["input_ids"][0]
        assert (first == made.bos_token_id) == expected
    update(tmp_path / "tokenizer_config.json", **settings)
    assert begins_with_bos("m", local(tmp_path)) == expected


def test_of_a_folder_without_settings(tmp_path: Path) -> None:
    assert not begins_with_bos("m", local(tmp_path))


@pytest.mark.parametrize("adds", [True, False, None])
def test_of_a_gguf_file(tmp_path: Path, adds: bool | None) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_llama(), tiny_tokenizer(), file, "llama", add_bos=adds)
    assert begins_with_bos("m", local(file)) == bool(adds)  # its tokenizer is not SentencePiece's


@pytest.mark.usefixtures("inputs")
def test_a_study_calibrates_and_measures_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "machine_of", lambda architecture, compute: Machine(1e9, 1))
    save_tiny(tiny_llama(), Path("inputs/begins"))
    tokenizer(f"{BOS} $A").save_pretrained("inputs/begins")
    for folder, expected in (("inputs/begins", True), ("inputs/tiny", None)):
        study = yaml.safe_load(init(folder, Path("inputs/text.txt"), 60))
        assert study["tasks"]["heldout"].get("bos") == expected
        assert study["calibration"].get("bos") == expected
    config = json.loads(Path("inputs/tiny/tokenizer_config.json").read_text())
    assert not config.get("add_bos_token")
