"""What the hub gives and what it refuses, asked of a server on the loopback address."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import quantised
from support.loopback_hub import TOKEN, LoopbackHub, Repository, loopback_hub, save_wikitext
from support.untrusted import REVISION, fetch, refusal, update
from support.workspace import save_tiny, tiny_llama

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.contents import model_config
from tensorpress.sources.corpora import text_of
from tensorpress.sources.hub_datasets import require
from tensorpress.sources.inputs import HubModel, Wikitext2Corpus
from tensorpress.sources.quantised import Origin
from tensorpress.sources.texts import WIKITEXT2

OTHER = "fedcba9876" * 4
INDEX = "model.safetensors.index.json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with loopback_hub() as served:
        served.connect(tmp_path / "home", monkeypatch)
        yield served


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in five shards."""
    folder = save_tiny(tiny_llama(), tmp_path_factory.mktemp("sharded") / "model")
    (folder / "model.safetensors").unlink()
    tiny_llama().save_pretrained(folder, max_shard_size="40KB")
    assert len(shards(folder)) == 5
    return folder


def served(hub: LoopbackHub, folder: Path, **settings: bool) -> HubModel:
    hub.repositories["models/some/model"] = Repository({REVISION: folder}, **settings)
    return HubModel(source="hub", repository="some/model", revision=REVISION)


def fetch_refused(model: HubModel, target: Path) -> str:
    with pytest.raises(TensorpressError) as caught:
        fetch(model, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def assert_same_weights(one: Path, other: Path) -> None:
    assert shards(one) == shards(other)
    for shard in shards(one):
        tensors = load_file(one / shard)
        for name, tensor in load_file(other / shard).items():
            assert tensor.equal(tensors.pop(name)), name
        assert not tensors


def test_shards_come_from_where_the_hub_sends(
    hub: LoopbackHub, sharded: Path, tmp_path: Path
) -> None:
    target = fetch(served(hub, sharded), tmp_path / "fetched")
    assert_same_weights(sharded, target)
    assert (
        json.loads((target / INDEX).read_text())["weight_map"]
        == (json.loads((sharded / INDEX).read_text())["weight_map"])
    )
    assert {name: hub.bodies[name] for name in shards(sharded)} == dict.fromkeys(shards(sharded), 1)
    asked = dict(hub.bodies)
    fetch(served(hub, sharded), tmp_path / "again")
    assert dict(hub.bodies) == asked, "what is in the cache is asked for again"


def test_planning_brings_no_weights(hub: LoopbackHub, sharded: Path) -> None:
    config = model_config("m", served(hub, sharded))
    assert config == json.loads((sharded / "config.json").read_text())
    assert set(hub.bodies) == {"config.json"}


def test_the_pinned_commit_is_fetched_and_not_the_newest(
    hub: LoopbackHub, sharded: Path, copy: Path, tmp_path: Path
) -> None:
    update(copy / "config.json", rms_norm_eps=0.5)
    hub.repositories["models/some/model"] = Repository({REVISION: sharded, OTHER: copy})
    pinned = HubModel(source="hub", repository="some/model", revision=REVISION)
    newest = pinned.model_copy(update={"revision": OTHER})
    assert_same_weights(sharded, fetch(pinned, tmp_path / "pinned"))
    assert_same_weights(copy, fetch(newest, tmp_path / "newest"))
    assert json.loads((tmp_path / "newest/config.json").read_text())["rms_norm_eps"] == 0.5


def test_a_download_that_breaks_off_goes_on_where_it_was(
    hub: LoopbackHub, sharded: Path, tmp_path: Path
) -> None:
    shard = shards(sharded)[1]
    hub.cuts[shard] = [5_500, 2_500]
    assert_same_weights(sharded, fetch(served(hub, sharded), tmp_path / "fetched"))
    assert hub.ranges == [(shard, "bytes=5000-"), (shard, "bytes=7000-")]


def test_a_download_that_stays_broken_loses_no_shard_that_came(
    hub: LoopbackHub, sharded: Path, tmp_path: Path
) -> None:
    first, shard, *_ = shards(sharded)
    hub.cuts[shard] = [0] * 20
    message = fetch_refused(served(hub, sharded), tmp_path / "fetched")
    assert message.startswith(f"models.m: some/model@01234567: {shard} cannot be fetched (")
    assert not (tmp_path / "fetched").exists()
    hub.cuts.clear()
    hub.bodies.clear()
    assert_same_weights(sharded, fetch(served(hub, sharded), tmp_path / "fetched"))
    assert (hub.bodies[first], hub.bodies[shard]) == (0, 1)


def test_a_gate_is_one_line_and_a_token_opens_it(
    hub: LoopbackHub, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served(hub, sharded, gated=True)
    message = refusal(model)
    assert message.startswith("models.m: some/model@01234567: the repository is gated; allowed: ")
    assert "hf auth login" in message
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Xx0" * 11)
    assert refusal(model) == message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_same_weights(sharded, fetch(model, tmp_path / "fetched"))
    assert not hub.tokens_elsewhere, "the host of the large files gets no token"


def test_what_is_not_there_is_one_line(hub: LoopbackHub, sharded: Path, tmp_path: Path) -> None:
    there = served(hub, sharded)
    message = refusal(there.model_copy(update={"revision": OTHER}))
    assert message.startswith(f"models.m.revision: some/model has no commit {OTHER}; allowed: ")
    message = refusal(there.model_copy(update={"repository": "some/typo"}))
    assert message.startswith("models.m.repository: 'some/typo' is not on the hub or is private; ")
    incomplete = shutil.copytree(sharded, tmp_path / "incomplete")
    (incomplete / shards(sharded)[2]).unlink()
    message = fetch_refused(served(hub, incomplete), tmp_path / "fetched")
    assert message == (
        f"models.m: some/model@01234567: the repository has no {shards(sharded)[2]}; "
        "allowed: one that has it"
    )


def codes_and_scales_apart(folder: Path) -> list[str]:
    """Two shards of a quantised model's file: scales lie in the second. Their names."""
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: names[name.endswith("_scale_inv")] for name in held}
    for file in names:
        own = {name: tensor for name, tensor in held.items() if places[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return names


def test_a_quantised_repository_is_dequantised(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = save_tiny(tiny_llama(), tmp_path / "model")
    expected = quantised.fp8(folder)
    codes, scales = codes_and_scales_apart(folder)
    hub.cuts[codes] = [5_500]
    target = fetch(served(hub, folder), tmp_path / "fetched")
    assert hub.ranges == [(codes, "bytes=5000-")]
    checkpoint = Checkpoint.open(target)
    found = checkpoint.read(checkpoint.files)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight.float(), rtol=1e-5, atol=1e-8)
    held = {**load_file(folder / codes), **load_file(folder / scales)}
    bits = 8 * sum(tensor.nbytes for tensor in held.values())
    assert Origin.of(target) == Origin(bits, "FP8 in blocks of 16 x 16")
    assert torch.isfinite(load_model(target, CPU)(torch.arange(9)[None]).logits).all()


def test_a_quantised_repository_without_a_scale_is_one_line(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    folder = save_tiny(tiny_llama(), tmp_path / "model")
    quantised.fp8(folder)
    held = load_file(folder / "model.safetensors")
    scale = next(name for name in held if name.endswith("q_proj.weight_scale_inv"))
    del held[scale]
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    message = fetch_refused(served(hub, folder), tmp_path / "fetched")
    assert f"{scale.removesuffix('_scale_inv')} holds numbers of type F8_E4M3" in message


ROWS = {
    "train": ["", " = Ships = \n", "", " A ship sails . \n"],
    "validation": [" Rain falls . \n"],
    "test": ["", " = Birds = \n", "", " A bird sings . \n", " It flies . \n"],
}
CORPUS = Wikitext2Corpus(source="wikitext2", split="test")
FILE = "wikitext-2-raw-v1/test-00000-of-00001.parquet"


@pytest.fixture
def texts(hub: LoopbackHub, tmp_path: Path) -> Repository:
    """WikiText-2 at the commit that is pinned, older than the newest."""
    require.cache_clear()
    pinned = save_wikitext(tmp_path / "wikitext", ROWS)
    newest = save_wikitext(tmp_path / "newest", {split: ["Changed . \n"] for split in ROWS})
    repository = Repository({str(WIKITEXT2.revision): pinned, OTHER: newest})
    hub.repositories[f"datasets/{WIKITEXT2.path}"] = repository
    return repository


def required() -> None:
    require(WIKITEXT2, "corpora.text")


def read() -> str:
    return text_of("text", CORPUS)


def test_wikitext2_is_the_text_of_its_split(hub: LoopbackHub, texts: Repository) -> None:
    required()
    assert not [file for file in hub.bodies if file.endswith(".parquet")]  # planning is quick
    hub.cuts[FILE] = [300]
    assert read() == "\n\n".join(ROWS["test"])
    assert hub.bodies[FILE] == 2
    hub.bodies.clear()
    assert read() == "\n\n".join(ROWS["test"])
    assert not hub.bodies[FILE], "what is in the cache is asked for again"


@pytest.mark.parametrize("ask", [required, read])
def test_a_dataset_that_is_not_given_is_one_line(
    hub: LoopbackHub, texts: Repository, ask: Callable[[], object]
) -> None:
    texts.gated = True
    assert "is a gated dataset" in dataset_refused(ask)
    texts.gated = False
    pinned = texts.commits.pop(str(WIKITEXT2.revision))
    assert f"Revision '{WIKITEXT2.revision}' doesn't exist" in dataset_refused(ask)
    hub.repositories.clear()
    assert "doesn't exist on the Hub" in dataset_refused(ask)
    texts.commits[str(WIKITEXT2.revision)] = pinned
    hub.repositories[f"datasets/{WIKITEXT2.path}"] = texts
    ask()


def test_a_dataset_that_breaks_is_one_line(hub: LoopbackHub, texts: Repository) -> None:
    hub.cuts[FILE] = [0] * 20
    assert "peer closed connection" in dataset_refused(read)
    hub.cuts.clear()
    file = texts.commits[str(WIKITEXT2.revision)] / FILE
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(60) + content[64:])
    assert "An error occurred while generating the dataset" in dataset_refused(read)


def dataset_refused(ask: Callable[[], object]) -> str:
    with pytest.raises(TensorpressError) as caught:
        ask()
    message = str(caught.value)
    assert message.startswith(f"corpora.text: dataset {WIKITEXT2.path} is not in the cache and the")
    assert "after 'hf auth login'), or name a local file with path (" in message
    assert "\n" not in message
    return message
