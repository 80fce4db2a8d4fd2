"""Tables in a terminal: whole whatever its width, and in the words that they were given."""

from __future__ import annotations

import pytest

from tensorpress.commands.tables import print_table

COLUMNS = ("recipe", "layers", *(f"number_{index}" for index in range(12)))
ROWS = [
    (name, ",".join(map(str, range(32))), *(float(10 * row + index) for index in range(12)))
    for row, name in enumerate(("one", "two", "three"))
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # taken for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "50")


def printed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of every line that has some, in plain text."""
    shown = capsys.readouterr().out
    assert "…" not in shown
    lines = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


@pytest.mark.usefixtures("terminal")
def test_a_narrow_terminal_gets_rows_beside_the_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_table("wide", COLUMNS, ROWS)
    found = [line for line in printed(capsys) if line[0]]

    two, one = found[: len(COLUMNS)], found[len(COLUMNS) :]
    assert [line[0] for line in two] == [line[0] for line in one] == list(COLUMNS)
    assert two[0][1:] + one[0][1:] == ["one", "two", "three"]
    assert two[-1][1:] + one[-1][1:] == ["11", "21", "31"]


@pytest.mark.usefixtures("terminal")
def test_a_wide_one_gets_them_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    print_table("wide", COLUMNS, ROWS)
    found = printed(capsys)
    assert tuple(found[0]) == COLUMNS
    assert [line[0] for line in found[1:]] == ["one", "two", "three"]


def test_brackets_are_words_and_no_rows_are_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("setting", ("first", "second"), [("[attention, ffn]", "said [/b] :smile:")])
    assert printed(capsys)[1] == ["[attention, ffn]", "said [/b] :smile:"]
    print_table("prediction", COLUMNS, [])
    assert capsys.readouterr().out == "prediction: none\n"
