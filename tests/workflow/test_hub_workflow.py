"""A model and texts of the hub through the whole workflow, then without the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.loopback_hub import Repository, loopback_hub, save_wikitext
from support.untrusted import REVISION
from support.workspace import Workspace, save_tiny, tiny_llama, tiny_params, tiny_text

from tensorpress.sources.texts import WIKITEXT2


def splits() -> dict[str, list[str]]:
    """Lines of prose by split, with their ends; blank ones are empty."""
    lines = [f"{line}\n" if line else "" for line in tiny_text().split("\n")]
    return {"train": lines[:400], "validation": lines[400:420], "test": lines[500:900]}


def params() -> dict:
    """``tiny_params`` on the hub's model and texts, beside the same model as a folder."""
    of_hub = {"source": "hub", "repository": "some/model", "revision": REVISION}
    study = tiny_params()
    study["models"]["theirs"] = of_hub
    study["models"]["tiny"]["baseline_tasks"] = ["heldout"]
    study["corpora"] = {
        "text": {"source": "wikitext2", "split": "train"},
        "test": {"source": "wikitext2", "split": "test"},
    }
    study["tasks"]["heldout"]["corpus"] = "test"
    for recipe in study["recipes"].values():
        recipe["models"] = ["theirs"]
    study["reports"]["pareto"]["model"] = "theirs"
    return study


def test_from_the_hub_to_a_report(workspace: Workspace, tmp_path: Path) -> None:
    repository = save_tiny(tiny_llama(), tmp_path / "repository")
    (repository / "model.safetensors").unlink()
    tiny_llama().save_pretrained(repository, max_shard_size="40KB")
    texts = save_wikitext(tmp_path / "wikitext", splits())
    workspace.write_params(params())
    shard = "model-00002-of-00005.safetensors"
    with loopback_hub() as hub:
        workspace.variables = hub.environment(tmp_path / "home")
        hub.repositories["models/some/model"] = Repository({REVISION: repository})
        hub.repositories["datasets/Salesforce/wikitext"] = Repository(
            {str(WIKITEXT2.revision): texts}
        )
        workspace.run("tensorpress", "check")
        assert set(hub.bodies) == {"config.json", "README.md"}, "planning brings what is small"
        hub.cuts[shard] = [1_000]
        workspace.snakemake()
        assert hub.bodies[shard] == 2
    done = workspace.run("tensorpress", "query", "perplexities", "--json")
    perplexity = {
        (row["model"], row["recipe"]): row["perplexity"] for row in json.loads(done.stdout)
    }
    assert perplexity.keys() == {
        ("tiny", "baseline"), ("theirs", "baseline"), ("theirs", "svd"), ("theirs", "drop"),
    }  # fmt: skip
    assert perplexity["theirs", "baseline"] == perplexity["tiny", "baseline"]
    assert len(set(perplexity.values())) == 3
    fetched = sorted((workspace.folder / "results/fetch").glob("*.txt"))
    assert sorted(file.read_text() for file in fetched) == sorted(
        "\n\n".join(splits()[split]) for split in ("train", "test")
    )
    # neither the hub nor its cache is needed for what is there
    shutil.rmtree(tmp_path / "home/datasets")
    assert workspace.nothing_to_do()
