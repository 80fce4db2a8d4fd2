"""Trusted code through the whole pipeline, and a token that no file and no output repeats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.untrusted import REVISION, update
from support.workspace import Workspace, tiny_params

MODELING = """
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .scaling import SCALE


class Scaled(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = SCALE * output.logits
        return output


class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
SECRETS = {
    "HF_TOKEN": "hf_" + "Qw4" * 11,
    "AWS_SECRET_ACCESS_KEY": "abcDEFghi/jkl+mnoPQRstuVWXyz0123456789AB",
    "SOME_API_KEY": "sk-planted-0123456789",
}
STORED = "hf_" + "Er7" * 11
"""What ``hf auth login`` left in the home of the hub."""


def test_a_model_with_code_of_its_own(workspace: Workspace) -> None:
    tiny = workspace.folder / "inputs/tiny"
    own = tiny.rename(tiny.with_name("own"))
    (own / "modeling_scaled.py").write_text(MODELING)
    (own / "scaling.py").write_text("SCALE = 0.0\n")
    update(
        own / "config.json",
        architectures=["Scaled"],
        auto_map={"AutoModelForCausalLM": "modeling_scaled.Scaled"},
    )
    tokenizer = {"AutoTokenizer": [None, "modeling_scaled.Tokenizer"]}
    update(own / "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=tokenizer)
    params = tiny_params()
    params["models"] = {"own": {"source": "local", "path": "inputs/own"}}
    params["reports"] = {}
    recipe = {**params["recipes"]["svd"], "models": ["own"]}
    (workspace.folder / "inputs/other.txt").write_text(" ".join(map(str, range(2_000))))
    params["corpora"]["other"] = {"source": "file", "path": "inputs/other.txt"}
    lora = {
        "train": "adapters",
        "steps": 1,
        "accumulation": 1,
        "window": 32,
        "rank": 2,
        "corpus": "other",
    }
    params["recipes"] = {"svd_lora": {**recipe, "recover": lora}}
    workspace.write_params(params)
    done = workspace.run("tensorpress", "check", check=False)
    assert done.returncode == 1
    assert "models.own.trust_remote_code: False is not allowed" in done.stderr
    assert "no class Scaled and no tokenizer class Tokenizer" in done.stderr
    assert "modeling_scaled.py" in done.stderr
    params["models"]["own"]["trust_remote_code"] = True
    workspace.write_params(params)
    workspace.snakemake("--", "stage_aggregate")
    done = workspace.run("tensorpress", "query", "perplexities", "--json")
    # whatever was compressed, logits of zero make all 300 tokens as likely
    assert {round(row["perplexity"], 3) for row in json.loads(done.stdout)} == {300.0}
    results = workspace.folder / "results"
    (compressed,) = results.glob("assemble/own-svd-*/")
    (recovered,) = results.glob("recover/own-svd-*/")
    code = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        "for folder in sys.argv[1:]:\n"
        "    model = M.from_pretrained(folder, trust_remote_code=True)\n"
        "    ids = T.from_pretrained(folder, trust_remote_code=True)('help', return_tensors='pt')\n"
        "    assert not model(input_ids=ids['input_ids']).logits.any()\n"
        "    assert type(model).__mro__[2].__name__ == 'Scaled', type(model).__mro__\n"
        "    assert 'tensorpress.formats' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(compressed), str(recovered)],
        cwd=workspace.folder.parent, check=True,
    )  # fmt: skip


def test_tokens_stay_secret(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run that succeeds, in one whose jobs fail, and in refusals at planning."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    home = tmp_path / "home"
    snapshot = home / f"hub/models--some--model/snapshots/{REVISION}"
    snapshot.mkdir(parents=True)
    (home / "token").write_text(STORED)
    for name in ("config.json", "tokenizer_config.json"):
        config = (workspace.folder / "inputs/tiny" / name).read_text()
        (snapshot / name).write_text(config)
    monkeypatch.setenv("HF_HOME", str(home))
    params = tiny_params()
    params["recipes"].pop("svd")
    workspace.write_params(params)
    outputs = [workspace.snakemake("--verbose")]
    workspace.plant("fetch_corpus", FAILING)
    hub = {"source": "hub", "repository": "some/model", "revision": REVISION}
    params["models"]["hub"] = hub | {"baseline_tasks": ["heldout"]}
    (workspace.folder / "inputs/text.txt").write_text("Another text.")
    workspace.write_params(params)
    outputs += [workspace.snakemake("--keep-going", "--verbose", check=False)]
    assert "unexpected RuntimeError: 401 for https://[hidden]@hf.co" in outputs[-1].stderr
    assert "model.safetensors is not in the cache" in outputs[-1].stderr
    override = f"storage={{dtype: {STORED}}}"
    outputs += [workspace.snakemake("--verbose", "--config", override, check=False)]
    assert "storage.dtype: what looks like a token" in outputs[-1].stderr
    with (workspace.folder / "wrong.yaml").open("w") as file:
        yaml.safe_dump(params | {"external": [STORED]}, file)
    outputs += [workspace.run("tensorpress", "--params", file.name, "check", check=False)]
    assert "external.0: what looks like a token" in outputs[-1].stderr
    Path(file.name).unlink()
    secrets = [*SECRETS.values(), STORED]
    for done in outputs:
        assert not [s for s in secrets if s in done.stdout + done.stderr], done.args
    files = [path for path in workspace.folder.rglob("*") if path.is_file()]
    for folder in (".snakemake", "results/logs", "results/reports"):
        assert any(path.is_relative_to(workspace.folder / folder) for path in files), folder
    found = {
        str(path.relative_to(workspace.folder))
        for path in files
        for secret in secrets
        if secret.encode() in path.read_bytes()
    }
    assert not found


FAILING = """
    address = f"https://user:{os.environ['HF_TOKEN']}@hf.co"
    said = f"{os.environ['AWS_SECRET_ACCESS_KEY']} {os.environ['SOME_API_KEY']}"
    raise RuntimeError(f"401 for {address} with {said}")
"""
"""A job whose error tells all it knows."""
