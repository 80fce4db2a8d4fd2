"""Code that comes with a model runs only where it is trusted, and only as it was fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.stages import compress
from support.untrusted import fetch, hub, local, refusal, update
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.commands.densify import densify
from tensorpress.errors import TensorpressError
from tensorpress.running.oom import CPU
from tensorpress.sources.contents import model_source
from tensorpress.sources.custom_code import SEAL

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
    assert not marker.exists()
    # the fetch builds the model without values, to compare the files with it
    target = fetch(trusted, tmp_path / "fetched")
    assert marker.exists()
    own, plain = logits(load_model(target, CPU)), logits(load_model(llama_directory, CPU))
    assert torch.equal(own, 2 * plain)
    for folder in (target, llama_directory):
        (tmp_path / folder.name).mkdir(exist_ok=True)
        compress(folder, "svd", {"rank": 5}, "ffn", tmp_path / folder.name)
    own, plain = (logits(load_model(tmp_path / f / "out", CPU)) for f in ("fetched", "llama"))
    assert torch.equal(own, 2 * plain)
    densify(tmp_path / "fetched/out", tmp_path / "dense")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", trust_remote_code=True)
    for again in (dense, load_model(tmp_path / "dense", CPU)):
        assert type(again).__name__ == "Scaled"
        torch.testing.assert_close(logits(again), own, atol=2e-5, rtol=1e-4)
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
    marker.unlink()
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


def test_code_of_the_hub(
    custom: Path, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(custom / "config.json", architectures=["ScaledForCausalLM"])
    model = hub(custom, "some/model", monkeypatch)
    assert "after reading the code in modeling_scaled.py" in refusal(model)
    assert not marker.exists()
    trusted = model.model_copy(update={"trust_remote_code": True})
    target = fetch(trusted, tmp_path / "fetched")
    assert {path.name for path in target.glob("*.py")} == {"modeling_scaled.py", "scaling.py"}
    marker.unlink()
    load_model(target, CPU)
    assert marker.exists()
    assert model_source("m", trusted)["trust_remote_code"] is True
