"""A GGUF file on the command line: ``init``, ``plan`` and ``advise`` take it as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support.gguf import network, write_gguf
from support.loopback_hub import Repository, loopback_hub
from support.untrusted import REVISION
from support.workspace import save_tiny, tiny_llama, tiny_params, tiny_tokenizer

from tensorpress.commands import advise
from tensorpress.commands import init as command
from tensorpress.commands.cli import main
from tensorpress.commands.init import init
from tensorpress.config.params import parse
from tensorpress.planning.foresight import Machine
from tensorpress.planning.jobs import slow_imports
from tensorpress.planning.plan import Plan

TEXT = Path("inputs/text.txt")
FILE = "inputs/small.gguf"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "machine_of", lambda architecture, compute: Machine(1e9, 1))


@pytest.fixture
def file(inputs: Path) -> Path:
    write_gguf(tiny_llama(), tiny_tokenizer(), inputs / FILE, "llama")
    return inputs / FILE


@pytest.mark.usefixtures("file")
def test_init_writes_a_study_of_the_file() -> None:
    params = parse(yaml.safe_load(init(FILE, TEXT, 60)))
    assert params.models["small"].path == FILE
    (model,) = Plan(params).fetched.values()
    assert model.is_quantised


@pytest.mark.usefixtures("inputs")
def test_init_of_a_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    write_gguf(tiny_llama(), tiny_tokenizer(), folder / "tiny-Q8_0.gguf", "llama")
    with loopback_hub() as hub:
        hub.connect(tmp_path / "home", monkeypatch)
        hub.repositories["models/some/files"] = Repository({REVISION: folder})
        params = parse(yaml.safe_load(init("some/files/tiny-Q8_0.gguf", TEXT, 60)))
        model = params.models["tiny-Q8_0"]
        assert (model.repository, model.revision) == ("some/files", REVISION)
        assert model.file == "tiny-Q8_0.gguf"
        Plan(params)


@pytest.mark.usefixtures("file")
def test_plan_counts_the_files_model(capsys: pytest.CaptureFixture[str]) -> None:
    """As many values as the same model has in safetensors."""
    save_tiny(tiny_llama(), Path("inputs/folder"))
    Path("params.yaml").write_text(yaml.safe_dump(tiny_params()))
    found = []
    for path in (FILE, "inputs/folder"):
        assert main(["plan", path, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [{**size, "model": "folder"} for size in found[0]] == found[1]
    assert {size["model"] for size in found[0]} == {"small"}


@pytest.mark.usefixtures("file")
def test_a_recipe_that_does_not_fit_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = tiny_params()
    params["methods"]["svd"]["rank"] = 1000
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main(["plan", FILE, "--json"]) == 0
    said = capsys.readouterr()
    assert {size["recipe"] for size in json.loads(said.out)} == {"drop"}
    assert said.err.startswith("tensorpress: recipes.svd is left out: methods.svd.rank: 1000 is ")


@pytest.mark.usefixtures("file")
def test_advise_takes_the_file() -> None:
    params = parse(tiny_params())
    (model,) = Plan(advise._study(FILE, params, 0.2, True)).models.values()
    assert (model.name, model.is_quantised) == ("small", True)


@pytest.mark.usefixtures("inputs")
def test_jobs_import_the_module_of_a_text_part() -> None:
    gemma = Path("inputs/gemma.gguf")
    write_gguf(network("gemma3_text"), tiny_tokenizer(), gemma, "gemma3")
    params = tiny_params()
    params["models"]["tiny"]["path"] = str(gemma)
    imported = slow_imports(Plan(parse(params)), {"calibrate", "evaluate"})
    module = "transformers.models.gemma3.modeling_gemma3"
    assert module in imported
    assert find_spec(module)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def unreadable(path: Path) -> None:
    path.write_bytes(b"no such thing" * 10)


@pytest.mark.parametrize("arguments", [["init"], ["plan"], ["advise", "--saved", "0.2"]])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, f"{FILE}: damaged (it is cut short: its header lists tensors beyond its end)"),
        (unreadable, f"{FILE}: damaged (it does not begin as GGUF files do)"),
        (Path.unlink, f"'{FILE}' is neither"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    file: Path,
    damage: Callable[[Path], None],
    words: str,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(tiny_params()))
    damage(file)
    assert main([*arguments, FILE]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("tensorpress: ")
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("file")
def test_a_study_that_does_not_fit_the_minutes_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["init", FILE, "--text", str(TEXT), "--minutes", "0.1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tensorpress: --minutes: 0.1 is not allowed: the smallest study of ")
    assert said.count("\n") == 1
