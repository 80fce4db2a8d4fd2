"""What lies beside the weights travels into every checkpoint that is made of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.recovery import recovered
from support.untrusted import REVISION, fetch, hub, local, refusal, update
from support.workspace import tiny_tokenizer
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.commands.densify import densify
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.protocols import tokenizer_sha256
from tensorpress.running.oom import CPU
from tensorpress.sources.companions import companions
from tensorpress.stages.fetching import fetch_model

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TOOLS = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def chat(copy: Path) -> Path:
    """A tiny Llama with all kinds of files beside its weights."""
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates/tools.jinja").write_text(TOOLS)
    (copy / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    for name in ("processor_config.json", "preprocessor_config.json", "special_tokens_map.json"):
        (copy / name).write_text(json.dumps({"auto_map": {"AutoProcessor": "own.Processor"}}))
    (copy / "notes.json").write_text("{}")
    return copy


def names(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.endswith((".safetensors", ".py", ".index.json"))}


def legacy(folder: Path) -> None:
    """The tokenizer as ``vocab.json`` and ``merges.txt`` alone."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines))
    (folder / "tokenizer.json").unlink()
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        **dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<end>"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("source", ["local", "hub"])
def test_companions_travel(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    model = local(chat) if source == "local" else hub(chat, "some/model", monkeypatch)
    target = fetch(model, tmp_path / "fetched")
    assert names(target) == names(chat) - {"notes.json"}
    assert "auto_map" not in json.loads((target / "processor_config.json").read_text())
    recovered(target, ("svd", {"rank": 5}, "ffn"), tmp_path)
    densify(tmp_path / "recovered", tmp_path / "dense")
    for made in ("out", "recovered", "dense"):
        folder = tmp_path / made
        assert names(folder) == names(target)
        assert json.loads((folder / "generation_config.json").read_text())["max_new_tokens"] == 7
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.apply_chat_template(MESSAGES, tokenize=False) == "<user>hi"
        with_tools = tokenizer.apply_chat_template(MESSAGES, chat_template="tools", tokenize=False)
        assert with_tools == "[hi]"


@pytest.mark.parametrize("source", ["local", "hub"])
def test_a_vocabulary_with_merges(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    before = load_tokenizer(copy)("import the module")["input_ids"]
    legacy(copy)
    model = local(copy) if source == "local" else hub(copy, "some/model", monkeypatch)
    target = fetch(model, tmp_path / "fetched")
    assert load_tokenizer(target)("import the module")["input_ids"] == before
    assert tokenizer_sha256(target) == tokenizer_sha256(copy)


def test_a_repository_without_tokenizer_config(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "tokenizer_config.json").unlink()
    for number, model in enumerate((local(copy), hub(copy, "some/model", monkeypatch))):
        target = fetch(model, tmp_path / str(number))
        assert names(target) == {"config.json", "tokenizer.json", "generation_config.json"}


def test_what_the_hub_has_but_does_not_give_is_no_missing_file(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

    listed = {
        name: TreeCacheEntry(
            size=1, blob_id="0" * 40, lfs_sha256=None, lfs_size=None, xet_hash=None
        )
        for name in ("model.safetensors", *names(chat))
    }
    (chat / "chat_template.jinja").unlink()
    model = hub(chat, "some/model", monkeypatch)
    write_tree_cache(str(Path(constants.HF_HUB_CACHE) / "models--some--model"), REVISION, listed)
    with pytest.raises(TensorpressError, match=r"chat_template\.jinja is not in the cache"):
        fetch(model, tmp_path / "fetched")


def test_a_cache_without_weights_is_named_before_anything_else(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (copy / name).unlink()
    with pytest.raises(TensorpressError, match=r"model\.safetensors is not in the cache, and HF_H"):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")


def test_a_hub_out_of_reach_is_no_empty_repository(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    model = hub(chat, "some/model", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
    message = refusal(model)
    assert "the list of files cannot be fetched" in message
    assert "HF_HUB_OFFLINE=1 takes the cache as it is" in message


def test_templates_stay_inside_of_the_folder() -> None:
    listed = ["a/tokenizer.json", "additional_chat_templates/x.jinja", "other/x.jinja", "x.py"]
    assert companions(listed) == ["additional_chat_templates/x.jinja"]
    reads = [
        "config.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "n.json",
    ]
    assert companions(reads) == []
    assert companions(reads, with_code=True) == ["n.json"]


def test_a_missing_tokenizer_is_refused_while_planning(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "tokenizer.json").unlink()
    assert refusal(local(copy)) == (
        f"models.m.path: {copy}: no tokenizer; allowed: tokenizer.json, tokenizer.model, "
        "vocab.json with merges.txt, vocab.txt, *.model, *.tiktoken, tekken.json beside the weights"
    )
    with pytest.raises(TensorpressError, match=r"^models\.m: no tokenizer; allowed: tok"):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GPT2Tokenizer"])
def test_an_empty_tokenizer_is_refused_at_the_fetch(copy: Path, tmp_path: Path, kind: str) -> None:
    """A file is there, of another kind of tokenizer than the config names."""
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("a\nb\n")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **special}))
    with pytest.raises(TensorpressError, match=r"^models\.m: no usable tokenizer") as caught:
        fetch(local(copy), tmp_path / "fetched")
    assert ".partial-" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_read(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    assert "tokenizer.json is not allowed; allowed: JSON with the vocabulary" in refusal(
        local(copy)
    )
    with pytest.raises(TensorpressError, match=r"^models\.m\.path: .*tokenizer\.json is not"):
        fetch_model("m", local(copy), tmp_path / "fetched", CPU)


def test_tokens_without_a_row_are_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["module", "statement"])
    tokenizer.save_pretrained(copy)
    assert refusal(local(copy)).startswith(
        f"models.m.path: {copy}: the tokenizer has token 301 and the embedding 300 rows "
        "(vocab_size of config.json); allowed: tokens up to 299"
    )
    with pytest.raises(
        TensorpressError, match=r"models\.m: .* has token 301 and the embedding 300"
    ):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")


def test_special_tokens_that_no_file_has_are_none(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers adds them: those of a config, and those that a class has by default."""
    plain = load_tokenizer(copy)("import a module")["input_ids"]
    update(copy / "tokenizer_config.json", pad_token="[PAD]")
    tokenizer = load_tokenizer(fetch(local(copy), tmp_path / "pad"))
    assert tokenizer.pad_token_id is None
    assert tokenizer.eos_token == "<end>"
    legacy(copy)
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    for number, model in enumerate((local(copy), hub(copy, "some/model", monkeypatch))):
        tokenizer = load_tokenizer(fetch(model, tmp_path / str(number)))
        assert tokenizer.bos_token_id is tokenizer.eos_token_id is None
        assert tokenizer("import a module")["input_ids"] == plain


def test_every_kind_of_vocabulary_is_measured(copy: Path) -> None:
    """Unigram lists its tokens."""
    pieces = [("<end>", 0.0), *((chr(97 + number), -1.0) for number in range(20))]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), eos_token="<end>"
    )
    tokenizer.save_pretrained(copy)
    update(copy / "config.json", vocab_size=20)
    assert "has token 20 and the embedding 20 rows" in refusal(local(copy))


def test_an_embedding_larger_than_the_tokenizer(copy: Path, tmp_path: Path) -> None:
    tiny_tokenizer(280).save_pretrained(copy)
    assert len(load_tokenizer(fetch(local(copy), tmp_path / "fetched"))) == 280
