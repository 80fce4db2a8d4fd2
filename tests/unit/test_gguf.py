"""GGUF files: the weights, the model and the tokenizer that they stand for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from support.gguf import network, write_gguf
from support.untrusted import fetch, hub, local, refusal
from support.workspace import tiny_text, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.gguf_files import read_header
from tensorpress.sources.quantised import Origin

GEMMA = {"query_pre_attn_scalar": 8, "sliding_window": 16}
CASES: dict[str, tuple[str, dict, dict]] = {
    "llama": ("llama", {"rope_theta": 5e5}, {"rope.dimension_count": 8}),
    "llama with biases": ("llama", {"attention_bias": True, "tie_word_embeddings": True}, {}),
    "llama, scaled": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "qwen2": ("qwen2", {}, {}),
    "qwen3": ("qwen3", {}, {}),
    "qwen3moe": (
        "qwen3_moe", {"norm_topk_prob": True},
        {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 24},
    ),
    "gemma2": (
        "gemma2", GEMMA,
        {"attention.sliding_window": 16, "attn_logit_softcapping": 50.0,
         "final_logit_softcapping": 30.0},
    ),
    "gemma3": ("gemma3_text", GEMMA, {"attention.sliding_window": 16}),
}  # fmt: skip
"""What is written: model type, config, and metadata beside what every file has."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tiny Llama."""
    write_gguf(network("llama"), tiny_tokenizer(), path := tmp_path / "tiny.gguf", "llama")
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_that_of_the_file(tmp_path: Path, case: str) -> None:
    model_type, config, metadata = CASES[case]
    model, path = network(model_type, **config), tmp_path / "m.gguf"
    expected = write_gguf(model, tiny_tokenizer(), path, case.split()[0].rstrip(","), **metadata)
    fused = {
        name.replace("gate_proj", "gate_up_proj"): torch.cat(
            [gate, expected[name.replace("gate_proj", "up_proj")]], 1
        )
        for name, gate in expected.items() if name.endswith("experts.gate_proj")
    }  # fmt: skip
    target = fetch(local(path), tmp_path / "fetched")
    loaded = load_model(target, CPU)
    state = loaded.state_dict()
    for name, weight in {**expected, **fused}.items():
        if name in state:
            torch.testing.assert_close(state[name], weight, rtol=0, atol=1e-7)
    # the file's config too: the same weights in the model that was written
    model.load_state_dict({name: each for name, each in {**expected, **fused}.items()
                           if name in model.state_dict()}, strict=False)  # fmt: skip
    ids = torch.randint(300, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    bits = 8 * sum(int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)
    assert Origin.of(target) == Origin(bits, "GGUF, Q8_0")
    # as the file has it: AutoTokenizer splits text in Qwen 2's way where a config says so
    tokenizer, text = PreTrainedTokenizerFast.from_pretrained(target), tiny_text()[:2000]
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]


def test_a_header_is_what_the_package_reads(file: Path) -> None:
    header, reader = read_header(file), GGUFReader(file)
    assert header.metadata["llama.embedding_length"] == 32
    assert header.metadata["tokenizer.ggml.tokens"] == 300
    found = {name: (e.dtype, e.shape, e.begin, e.bits) for name, e in header.tensors.items()}
    assert found == {
        t.name: (t.tensor_type.name, tuple(t.shape.tolist()[::-1]), t.data_offset, 8 * t.n_bytes)
        for t in reader.tensors
    }


def test_a_folder_with_one_file(file: Path, tmp_path: Path) -> None:
    """What lies beside the file goes before what is in it."""
    one = fetch(local(file), tmp_path / "one")
    assert (fetch(local(file.parent), tmp_path / "two") / "model.safetensors").read_bytes() == (
        (one / "model.safetensors").read_bytes()
    )
    network("llama", rope_theta=123.0, architectures=["LlamaForCausalLM"]).config.save_pretrained(
        file.parent
    )
    fetched = fetch(local(file.parent), tmp_path / "three")
    assert load_model(fetched, CPU).config.rope_parameters["rope_theta"] == 123.0
    shutil.copy(file, file.parent / "other.gguf")
    assert "has 2 GGUF files; allowed: the path of one of them, as" in refusal(local(file.parent))


def test_a_file_of_the_hub(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fetch(local(file), tmp_path / "fetched/one")
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(file, folder)
    two = fetch(hub(folder, "a/b", monkeypatch, file=file.name), tmp_path / "fetched/two")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "source.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def no_gguf(path: Path) -> None:
    path.write_bytes(b"no such thing" * 10)


def rewritten(**metadata: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_gguf(network("llama"), tiny_tokenizer(), path, "llama", **metadata)

    return write


def mamba(path: Path) -> None:
    """The first mention of Llama is that of the architecture."""
    path.write_bytes(path.read_bytes().replace(b"llama", b"mamba", 1))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "it is cut short: its header lists tensors beyond its end"),
        (cut_in_header, "tiny.gguf"),
        (no_gguf, "it does not begin as GGUF files do"),
        (mamba, "general.architecture: 'mamba' is not read of GGUF files; allowed: llama, "),
        (rewritten(**{"expert_count": 8}), "llama.expert_count is not read of GGUF files; "),
        (rewritten(**{"rope.dimension_count": 4}), "llama.rope.dimension_count: 4 is not allowed"),
        (
            rewritten(**{"rope.scaling.type": "longrope"}),
            "llama.rope.scaling.type: 'longrope' is not read of GGUF files; allowed: none, linear",
        ),
    ],
)
def test_what_is_not_read_is_refused_while_planning(
    file: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(file)
    assert words in refusal(local(file))


def test_tensors_that_are_not_known_are_named(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_ab.weight"))
    with pytest.raises(TensorpressError, match=r"tensor blk.1.ffn_ab.weight is not known of llama"):
        fetch(local(file), tmp_path / "fetched")
    file.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.3.ffn_up.weight"))
    with pytest.raises(TensorpressError, match=r"layers.3.mlp.up_proj.weight has no place"):
        fetch(local(file), tmp_path / "fetched")
