"""A model whose type has no file goes through the whole workflow, and is looked at once."""

from __future__ import annotations

from support.families import FOUND
from support.workspace import Workspace, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM


def test_a_type_without_a_file(workspace: Workspace) -> None:
    folder = workspace.folder / "inputs/tiny"
    for path in folder.iterdir():
        path.unlink()
    config = AutoConfig.for_model("phi3", vocab_size=300, **FOUND["phi3"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    workspace.snakemake()
    assert workspace.nothing_to_do()
    # the fetched config is the model's own
    assert len(list(workspace.folder.glob("results/.families/*.json"))) == 1
