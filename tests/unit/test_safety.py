"""What comes with a model may not run, leave its folder or tell: code, pickles, paths, tokens."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from test_assembly import CPU, compress
from test_params import broken
from transformers import LlamaForCausalLM
from workspace import ROOT, tiny_params, tiny_text

from tensorpress import preflight
from tensorpress.checkpoint import Checkpoint
from tensorpress.custom_code import SEAL
from tensorpress.densify import densify
from tensorpress.errors import TensorpressError
from tensorpress.fetching import fetch_model
from tensorpress.loading import load_model, load_tokenizer
from tensorpress.params import HubModel, LocalModel, Params, load, parse
from tensorpress.secrets import HIDDEN, redacted
from tensorpress.sources import model_source

MODELING = """
from pathlib import Path

from transformers import LlamaForCausalLM

from .scaling import SCALE

Path({marker!r}).write_text("ran")


class Scaled(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = SCALE * output.logits
        return output
"""
TOKENIZATION = """
from pathlib import Path

from transformers import PreTrainedTokenizerFast

Path({marker!r}).write_text("ran")


class Upper(PreTrainedTokenizerFast):
    def tokenize(self, text, **kwargs):
        return super().tokenize(text.upper(), **kwargs)
"""
REVISION = "0123456789" * 4
TOKEN = "hf_" + "Zz9" * 11


def update(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def copy(llama_directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama_directory, tmp_path / "model")


@pytest.fixture
def custom(copy: Path, marker: Path) -> Path:
    """A Llama with a class of its own, in place of transformers' if it may run."""
    (copy / "modeling_scaled.py").write_text(MODELING.format(marker=str(marker)))
    (copy / "scaling.py").write_text("SCALE = 2.0\n")
    update(copy / "config.json", auto_map={"AutoModelForCausalLM": "modeling_scaled.Scaled"})
    return copy


@pytest.fixture
def custom_tokenizer(copy: Path, marker: Path) -> Path:
    (copy / "tokenization_upper.py").write_text(TOKENIZATION.format(marker=str(marker)))
    auto_map = {"AutoTokenizer": [None, "tokenization_upper.Upper"]}
    update(copy / "tokenizer_config.json", auto_map=auto_map)
    return copy


def local(directory: Path, **settings: object) -> LocalModel:
    return LocalModel(source="local", path=str(directory), **settings)


def fetch(model: LocalModel | HubModel, target: Path) -> Path:
    model_source("m", model)  # as planning does
    fetch_model("m", model, target, CPU)
    return target


def refusal(model: LocalModel | HubModel) -> str:
    with pytest.raises(TensorpressError) as caught:
        model_source("m", model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(40)[None]).logits


def test_code_that_transformers_has_is_left_out(
    custom: Path, llama_directory: Path, tmp_path: Path, marker: Path
) -> None:
    target = fetch(local(custom), tmp_path / "fetched")
    assert not list(target.glob("*.py"))
    assert "auto_map" not in json.loads((target / "config.json").read_text())
    plain = logits(load_model(llama_directory, CPU))
    for folder in (target, custom):
        model = load_model(folder, CPU)
        load_tokenizer(folder)
        assert type(model) is LlamaForCausalLM
        assert torch.equal(logits(model), plain)
    assert not marker.exists()


def test_code_that_a_model_needs_must_be_trusted(custom: Path, marker: Path) -> None:
    update(custom / "config.json", architectures=["ScaledForCausalLM"])
    assert refusal(local(custom)) == (
        "models.m.trust_remote_code: False is not allowed: transformers has no class "
        "ScaledForCausalLM; allowed: true, after reading the code in modeling_scaled.py"
    )
    assert not marker.exists()


def test_trusted_code_runs_where_the_model_does(
    custom: Path, llama_directory: Path, tmp_path: Path, marker: Path
) -> None:
    update(custom / "config.json", architectures=["ScaledForCausalLM"])
    trusted = local(custom, trust_remote_code=True)
    before = model_source("m", trusted)
    target = fetch(trusted, tmp_path / "fetched")
    assert not marker.exists()
    own, plain = logits(load_model(target, CPU)), logits(load_model(llama_directory, CPU))
    assert marker.read_text() == "ran"
    assert torch.equal(own, 2 * plain)
    for folder in (target, llama_directory):
        (tmp_path / folder.name).mkdir(exist_ok=True)
        compress(folder, "svd", {"rank": 5}, "ffn", tmp_path / folder.name)
    own, plain = (logits(load_model(tmp_path / f / "out", CPU)) for f in ("fetched", "llama"))
    assert torch.equal(own, 2 * plain)
    with pytest.raises(TensorpressError, match="a model with code of its own"):
        densify(tmp_path / "fetched/out", tmp_path / "dense")
    (custom / "scaling.py").write_text("SCALE = 3.0\n")
    assert model_source("m", trusted) != before
    (target / "scaling.py").write_text("SCALE = 3.0\n")
    with pytest.raises(TensorpressError, match=r"scaling\.py is not the code that was fetched"):
        load_model(target, CPU)


def test_a_seal_that_a_model_brings_is_not_believed(
    custom: Path, tmp_path: Path, marker: Path
) -> None:
    fetch(local(custom, trust_remote_code=True), tmp_path / "trusted")
    shutil.copy(tmp_path / "trusted" / SEAL, custom)
    target = fetch(local(custom), tmp_path / "fetched")
    assert not (target / SEAL).exists()
    load_model(target, CPU)
    assert not marker.exists()


def test_code_of_a_tokenizer(custom_tokenizer: Path, tmp_path: Path, marker: Path) -> None:
    plain = load_tokenizer(fetch(local(custom_tokenizer), tmp_path / "plain"))
    assert not marker.exists()
    trusted = local(custom_tokenizer, trust_remote_code=True)
    own = load_tokenizer(fetch(trusted, tmp_path / "own"))
    assert marker.exists()
    assert own.tokenize("help") == plain.tokenize("HELP")
    update(custom_tokenizer / "tokenizer_config.json", tokenizer_class="UpperTokenizer")
    assert "no tokenizer class UpperTokenizer" in refusal(local(custom_tokenizer))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"auto_map": {"AutoConfig": "other/repository--configuration.C"}}, "'other/repository--"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_lost.M"}}, "lacks modeling_lost.py"),
        ({"architectures": ["Llama\nimport os"]}, "architectures"),
        ({"architectures": None}, "architectures"),
    ],
)
def test_configs_that_name_other_code(custom: Path, config: dict, message: str) -> None:
    update(custom / "config.json", **config)
    assert message in refusal(local(custom, trust_remote_code=True))


def test_code_may_not_replace_that_of_compressed_checkpoints(custom: Path) -> None:
    (custom / "modules.py").write_text("")
    assert "code in modules.py" in refusal(local(custom, trust_remote_code=True))


def test_kernels_of_the_hub_are_not_loaded(copy: Path, tmp_path: Path) -> None:
    update(copy / "config.json", attn_implementation="some/kernel")
    config = json.loads((fetch(local(copy), tmp_path / "fetched") / "config.json").read_text())
    assert "attn_implementation" not in config


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_pickles_are_refused_unopened_with_advice_that_works(
    copy: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = LlamaForCausalLM.from_pretrained(copy).state_dict()
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(marker)))
    message = refusal(local(copy))
    assert "models.m.path: pytorch_model.bin is not allowed" in message
    with pytest.raises(TensorpressError, match=r"bin is not allowed"):
        fetch_model("m", local(copy), tmp_path / "fetched", CPU)
    assert not marker.exists()
    torch.save(weights, copy / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    exec(message.partition(' -c "')[2].removesuffix('"'), {})
    converted = load_model(fetch(local(tmp_path / "model-safetensors"), tmp_path / "f"), CPU)
    assert all(torch.equal(value, weights[name]) for name, value in converted.state_dict().items())


def test_nothing_of_ours_opens_pickles() -> None:
    text = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert "from_pretrained(" in text
    assert not re.search(r"pickle\.load|import pickle|torch\.load|np\.load|allow_pickle", text)


def hub(folder: Path, repository: str, monkeypatch: pytest.MonkeyPatch, **settings: object):
    """A model of the hub whose cache holds what is in a folder, and no connection."""
    import huggingface_hub.constants

    cache = folder.parent / "cache"
    snapshot = cache / f"models--{repository.replace('/', '--')}/snapshots/{REVISION}"
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return HubModel(source="hub", repository=repository, revision=REVISION, **settings)


def test_pickles_of_the_hub(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(TensorpressError, match=r"models\.m\.repository: pytorch_model\.bin is not"):
        fetch(hub(copy, "some/model", monkeypatch), tmp_path / "fetched")


def test_code_of_the_hub(
    custom: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(custom / "config.json", architectures=["ScaledForCausalLM"])
    model = hub(custom, "some/model", monkeypatch)
    assert "after reading the code in modeling_scaled.py" in refusal(model)
    trusted = model.model_copy(update={"trust_remote_code": True})
    target = fetch(trusted, tmp_path / "fetched")
    assert {path.name for path in target.glob("*.py")} == {"modeling_scaled.py", "scaling.py"}
    assert not marker.exists()
    load_model(target, CPU)
    assert marker.exists()
    assert model_source("m", trusted)["trust_remote_code"] is True


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_may_not_lead_out(copy: Path, tmp_path: Path, shard: str) -> None:
    shutil.copy(copy / "model.safetensors", tmp_path / "secret.safetensors")
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": shard}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{shard!r} is not allowed" in refusal(local(copy))
    with pytest.raises(TensorpressError, match="is not allowed"):
        Checkpoint.open(copy)


def test_adapters_are_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    assert "adapter_config.json is not allowed" in refusal(local(copy))


@pytest.mark.parametrize("value", ["../model", "/etc/passwd", "inputs/../../model"])
@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("models.tiny", {"source": "local"}),
        ("models.tiny", {"source": "config"}),
        ("corpora.text", {"source": "file"}),
        ("corpora.text", {"source": "wikitext2"}),
        ("corpora.text", {"source": "c4"}),
        ("tasks.heldout", {"kind": "hotpotqa"}),
        ("tasks.heldout", {"kind": "zero_shot", "task": "piqa"}),
    ],
)
def test_paths_stay_inside(place: str, entry: dict, value: str) -> None:
    params = broken(place, entry | {"path": value})
    with pytest.raises(TensorpressError) as caught:
        parse(params, "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {place}.path: {value!r} leads to ")
    assert "allowed: paths inside of the project, or of the folders that external lists (none" in (
        str(caught.value)
    )
    parse({**params, "external": ["..", "/etc"]})


def test_every_path_of_the_schema_is_confined() -> None:
    """A new setting that names a file belongs into the list above and into ``Params._paths``."""
    schema = Params.model_json_schema()
    named = {
        (title, field)
        for title, model in schema["$defs"].items()
        for field in model.get("properties", {})
        if any(word in field for word in ("path", "file", "folder", "directory"))
    }
    kinds = ("LocalModel", "ConfigModel", "FileCorpus", "Wikitext2Corpus", "C4Corpus")
    assert named == {(kind, "path") for kind in (*kinds, "HotpotQA", "ZeroShot")}


def test_links_are_followed(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "inputs").mkdir(parents=True)
    monkeypatch.chdir(project)
    (project / "inputs/tiny").symlink_to(copy)
    with pytest.raises(TensorpressError, match=r"models\.tiny\.path: 'inputs/tiny' leads to"):
        parse(tiny_params())
    (project / "inputs/tiny").unlink()
    shutil.copytree(copy, project / "inputs/tiny")
    parse(tiny_params())
    (project / "inputs/tiny/model.safetensors").unlink()
    (project / "inputs/tiny/model.safetensors").symlink_to(copy / "model.safetensors")
    with pytest.raises(TensorpressError, match=r"'model\.safetensors' of 'inputs/tiny' leads to"):
        parse(tiny_params())
    (project / "inputs/tiny/config.json").unlink()
    (project / "inputs/tiny/config.json").symlink_to("config.json")  # to itself
    parse(tiny_params() | {"external": [str(copy)]})


def test_a_snapshot_of_the_hub_cache_is_as_good_as_its_blobs(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    copy.rename(repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    params = broken("models.tiny.path", str(snapshot)) | {"external": [str(snapshot)]}
    parse(params)
    fetched = fetch(local(snapshot), tmp_path / "fetched")
    assert not any(path.is_symlink() for path in fetched.iterdir())
    (snapshot / "extra.json").symlink_to("/etc/passwd")
    with pytest.raises(TensorpressError, match=r"'extra\.json' of .* leads to /etc/passwd"):
        parse(params)


def test_a_folder_on_the_command_line_needs_no_declaration(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(study: Params) -> None:
        assert study.models["model"].path == str(copy)
        raise TensorpressError("planned")

    monkeypatch.setattr(preflight, "Plan", plan)
    with pytest.raises(TensorpressError, match=r"^planned$"):
        preflight.advise(str(copy), parse(tiny_params()), 0.2, quantise=True)


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "-", "a\n"])
def test_names_that_become_paths(name: str) -> None:
    params = tiny_params()
    params["models"][name] = params["models"]["tiny"]
    with pytest.raises(TensorpressError):
        parse(params)
    with pytest.raises(TensorpressError, match="repository"):
        parse(broken("models.tiny", {
            "source": "hub", "repository": f"{name}/..", "revision": REVISION,
        }))  # fmt: skip


@pytest.mark.parametrize(
    "path", ["models.tiny.path", "calibration.corpus", "methods.svd.rank", "token"]
)
def test_tokens_in_params_are_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(TensorpressError) as caught:
        parse(broken(path, f"x {TOKEN}"), "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {path}: what looks like a token")
    assert TOKEN not in str(caught.value)


def test_tokens_in_keys_and_in_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(TensorpressError, match="recipes") as caught:
        parse(broken(f"recipes.{TOKEN}", {}))
    assert TOKEN not in str(caught.value)
    (tmp_path / "p.yaml").write_text(f"a: {{b: {TOKEN}\nc: [")
    with pytest.raises(TensorpressError, match="not YAML") as caught:
        load(tmp_path / "p.yaml")
    assert TOKEN not in str(caught.value)


def test_redacted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    (tmp_path / "token").write_text("stored-elsewhere\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MY_PASSWORD", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/home/me/credentials")
    for secret, text in {
        TOKEN: f"401 for token {TOKEN}.",
        "stored-elsewhere": "Bearer: stored-elsewhere",
        "wJalrXUtnFEMI/K7MDENG": "key wJalrXUtnFEMI/K7MDENG of s3",
        "AKIAIOSFODNN7EXAMPLE": "id AKIAIOSFODNN7EXAMPLE",
        "me:hunter2": "https://me:hunter2@host/file is missing",
        "abcdef": "authorization: Bearer abcdef",
        "0a1b": "https://host/file?X-Amz-Signature=0a1b&x=1",
    }.items():
        assert secret not in redacted(text)
        assert HIDDEN in redacted(text)
    plain = "short false /home/me/credentials https://host/a@b hf_short user@host tokens 12"
    assert redacted(plain) == plain
    assert redacted(tiny_text()) == tiny_text()
