"""The command line itself: every command is listed and runs, help, completion, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT

from tensorpress.commands import cli
from tensorpress.commands.parser import GROUPS
from tensorpress.commands.workflow import configfiles


def test_every_command_is_in_a_group_and_runs_something(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name for group in GROUPS.values() for command in group]
    assert sorted(names) == sorted(cli.COMMANDS)
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for title, group in GROUPS.items():
        assert f"\n{title}:\n" in shown
        for command in group:
            assert f"  {command.name:<10} {command.text}" in shown
    assert "exit status: 0, done; 1, one line" in shown


def test_what_is_not_understood_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["decompress"])
    assert left.value.code == 2
    assert "invalid choice: 'decompress'" in capsys.readouterr().err


def test_completion_knows_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--print-completion", "bash"])
    assert left.value.code == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert all(word in script for word in ("advise", "--no-rounding", "plan-keys", "--minutes"))


def test_json_of_what_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["copy", "params.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": "params.yaml"}
    monkeypatch.chdir(ROOT)
    assert cli.main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["aggregate"] > 0
    assert cli.main(["families", "--json", "llama", "nothing_such"]) == 0
    known, unknown = json.loads(capsys.readouterr().out)
    assert known == {"type": "llama", "understood": "by a file", "what": "see the file"}
    assert unknown["understood"] == "refused"


def test_who_reads_may_stop_early() -> None:
    command = f"{sys.executable} -m tensorpress.commands.cli schema | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-n", "--configfile", "no.yaml"],
        ["run", "--configfile=there.yaml", "no.yaml", "--cores", "1"],
        ["--params", "no.yaml", "run", "-n"],
    ],
)
def test_params_that_are_missing_are_named_before_snakemake_starts(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("Snakemake starts"))
    Path("there.yaml").touch()
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("tensorpress: no.yaml: no such params file; allowed: ")


def test_options_behind_configfiles_are_snakemake_s() -> None:
    options = ["--cores", "2", "--configfile", "a.yaml", "b.yaml", "-n", "report", "--configfile=c"]
    assert configfiles(options) == ["a.yaml", "b.yaml", "c"]
