"""Recovery and evaluation share no text in any guise; what is merely alike is allowed."""

# ruff: noqa: RUF001 - Chinese has commas of its own

from __future__ import annotations

import subprocess
import textwrap
import time
import unicodedata
from pathlib import Path

import pytest
from support.workspace import tiny_params, tiny_text

from tensorpress.config.params import parse
from tensorpress.errors import TensorpressError
from tensorpress.planning import leakage
from tensorpress.planning.leakage import common
from tensorpress.planning.plan import Plan

PROSE = tiny_text()
WORDS = PROSE.split()
CODE = Path(subprocess.__file__).read_text(encoding="utf-8")
CHINESE = "\n\n".join(
    f"第{day}天，小猫在花园里遇见了一只会唱歌的小鸟，它们一起走到河边看日落，然后各自回家。"
    for day in range(400)
)
FRENCH = " ".join(f"Élève numéro {n} à la façade où naît l'été ; forêt {n}." for n in range(300))
PLAIN_FRENCH = unicodedata.normalize("NFKD", FRENCH).encode("ascii", "ignore").decode()
FOX = "The quick brown fox jumps over the lazy dog, again and again and again. "
LICENCE = textwrap.dedent("""\
    Permission is hereby granted, free of charge, to any person obtaining a copy of this software
    and associated documentation files (the "Software"), to deal in the Software without
    restriction, including without limitation the rights to use, copy, modify, merge, publish,
    distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
    Software is furnished to do so, subject to the following conditions: The above copyright notice
    and this permission notice shall be included in all copies or substantial portions of the
    Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
    INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR
    PURPOSE AND NONINFRINGEMENT.
""")


def lines(words: list[str], length: int) -> str:
    return "\n".join(" ".join(words[i : i + length]) for i in range(0, len(words), length))


SHORT = lines(WORDS[:6000], 8)
DISGUISES = {
    "the same": (PROSE, PROSE),
    "within a larger text": (PROSE[:20_000], PROSE),
    "a part of it": (PROSE, "Other words before. " + PROSE[30_000:33_000]),
    "one line": (PROSE, " ".join(WORDS)),
    "another width": (PROSE, lines(WORDS, 17)),
    "quoted": (PROSE, "\n".join("> " + line for line in PROSE.splitlines())),
    "indented, with tabs": (PROSE, textwrap.indent(PROSE, "\t")),
    "Windows' lines and a mark before": (PROSE, "\ufeff" + PROSE.replace("\n", "\r\n")),
    "capitals": (PROSE, PROSE.upper()),
    "numbered lines": (
        lines(WORDS, 17),
        "\n".join(f"{n}: {line}" for n, line in enumerate(lines(WORDS, 17).splitlines())),
    ),
    "emphasis": (PROSE, " ".join(f"**{word}**" if len(word) > 6 else word for word in WORDS)),
    "code": (CODE, CODE + "\n"),
    "code, indented anew": (CODE, CODE.replace("    ", "  ")),
    "Chinese": (CHINESE, CHINESE + "\n"),
    "Chinese, wrapped": (CHINESE, "\n".join(textwrap.wrap(CHINESE, 30))),
    "short lines": (SHORT, SHORT + "\n"),
    "short lines in one": (SHORT, " ".join(SHORT.split())),
    "accents apart": (FRENCH, unicodedata.normalize("NFD", FRENCH)),
    "no accents": (FRENCH, PLAIN_FRENCH),
    "short": (FOX, PROSE[:900] + FOX.upper().replace(" ", "\n")),
    "one sentence a thousand times": (f"{PROSE[5000:5300]} " * 1000, PROSE),
}  # fmt: skip


@pytest.mark.parametrize("name", DISGUISES)
def test_a_text_is_known_again_in_every_guise(name: str) -> None:
    evaluated, trained = DISGUISES[name]
    words = common(evaluated, trained)
    assert words
    assert words in " ".join(evaluated.split())


@pytest.mark.parametrize(
    ("evaluated", "trained"),
    [
        (PROSE[:20_000], PROSE[22_000:]),
        (CODE, Path(textwrap.__file__).read_text(encoding="utf-8")),
        (CHINESE, CHINESE.replace("小猫", "老虎").replace("花园里", "山上").replace("小鸟", "猴子")
         .replace("河边", "海边").replace("一起", "慢慢")),
        (f"{LICENCE}\n{CODE[:10_000]}", f"{LICENCE}\n{Path(textwrap.__file__).read_text()}"),
        ("\n".join(f"{LICENCE}\n{CODE[i:i + 2000]}" for i in range(0, 40_000, 2000)),
         "\n".join(f"{LICENCE}\n{PROSE[i:i + 2000]}" for i in range(0, 40_000, 2000))),
        ("Too short to be compared.", "Too short to be compared."),
        ("", PROSE),
        (PROSE, ""),
    ],
    ids=["prose", "code", "Chinese", "licence", "licence before every file", "short", "empty",
         "nothing to train on"],
)  # fmt: skip
def test_what_is_merely_of_the_same_kind_is_allowed(evaluated: str, trained: str) -> None:
    assert common(evaluated, trained) is None


def test_the_threshold_is_a_hundredth_and_more_than_a_notice() -> None:
    distinct = "".join(f"{n:x}q{n * n:x}" for n in range(9000))
    letters = len(distinct)
    assert letters > 50_000
    some = letters // 100
    other = CHINESE
    assert common(distinct, other + distinct[5000 : 5000 + some * 9 // 10]) is None
    # sampled, so not to the letter; a tenth more than both bounds is beyond them
    most = max(1500, some) * 12 // 10 + leakage.RUN
    found = common(distinct, other + distinct[5000 : 5000 + most])
    assert found is not None
    assert distinct.index(found[:30]) >= 5000


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may lie across two blocks; hashes and places are those of the whole text."""

    def found() -> list[tuple[int, int]]:
        blocks = leakage._runs(PROSE[:5000], 7)
        return [
            (at + int(offset), int(each))
            for at, offsets, hashes in blocks
            for offset, each in zip(offsets, hashes, strict=True)
        ]

    whole = found()
    monkeypatch.setattr(leakage, "BLOCK", 37)
    assert found() == whole
    assert len(whole) > 100


def test_large_texts_are_compared_in_seconds() -> None:
    """A second or so; 100 MB took 10."""
    large = "".join(f"{n:x} {n * 7919:x} " for n in range(250_000))
    assert len(large) > 3_000_000
    began = time.process_time()
    assert common(PROSE, large) is None
    assert common(PROSE, large + PROSE) is not None
    assert time.process_time() - began < 15


def recovered_on(text: str) -> dict:
    """The tiny study with a recovery on a text of its own."""
    Path("inputs/train.txt").write_text(text, encoding="utf-8")
    params = tiny_params()
    params["corpora"]["train"] = {"source": "file", "path": "inputs/train.txt"}
    params["recipes"]["svd"]["recover"] = {"train": "adapters", "corpus": "train", "window": 64}
    return params


def test_a_study_is_refused_with_the_words_that_both_hold(inputs: Path) -> None:
    with pytest.raises(TensorpressError) as caught:
        Plan(parse(recovered_on(lines(WORDS, 17))))
    refused, _, words = str(caught.value).partition("(both hold: '")
    assert refused == (
        "recipes.svd.recover.corpus: 'train' is not allowed: task 'heldout' evaluates on text of "
        "it "
    )
    assert words[:40] in " ".join(WORDS)[:200]
    Plan(parse(recovered_on(CHINESE)))


def test_a_local_shard_of_c4_is_compared_by_its_documents(inputs: Path) -> None:
    import json

    params = recovered_on(" ".join(WORDS))
    shard = "".join(json.dumps({"text": PROSE[i : i + 500]}) + "\n" for i in range(0, 20_000, 500))
    (inputs / "inputs/c4.json").write_text(shard)
    params["corpora"]["text"] = {"source": "c4", "path": "inputs/c4.json"}
    params["calibration"]["corpus"] = "train"
    with pytest.raises(TensorpressError, match=r"recover\.corpus: 'train' is not allowed"):
        Plan(parse(params))


def test_an_embedded_text_is_compared_with_a_file(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorpress.sources.embedded.corpus.documents", lambda split: [PROSE])
    params = recovered_on(" ".join(WORDS[:3000]))
    params["corpora"]["text"] = {"source": "embedded", "split": "heldout"}
    params["calibration"]["corpus"] = "train"
    with pytest.raises(TensorpressError, match=r"recover\.corpus: 'train' is not allowed"):
        Plan(parse(params))


def test_texts_are_compared_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next planning remembers, by content: another text under the same name is compared."""
    params = recovered_on(CHINESE)
    leakage.shared_text.cache_clear()  # a process that knows nothing
    Plan(parse(params))
    leakage.shared_text.cache_clear()  # another one
    compared: list[int] = []

    def counting(evaluated: str, trained: str) -> str | None:
        compared.append(len(trained))
        return common(evaluated, trained)

    monkeypatch.setattr(leakage, "common", counting)
    Plan(parse(params))
    assert not compared
    with pytest.raises(TensorpressError, match="evaluates on text of it"):
        Plan(parse(recovered_on(" ".join(WORDS))))
    assert compared == [len(" ".join(WORDS))]
