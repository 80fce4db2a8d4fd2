"""Whether the text that a recovery trains on holds text that a task evaluates on. Torch-free.

Texts are compared as runs of 50 letters and digits, with nothing between them, whatever their case
(as OpenAI, "GPT-4 Technical Report", 2023, appendix C): wrapping, indentation, quotation marks and
marks of markup do not matter, and a language that sets no spaces is compared like any other.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.keying.fingerprints import code_fingerprint
from tensorpress.keying.keys import key
from tensorpress.planning.artifacts import CorpusArtifact
from tensorpress.sources.corpora import text_of
from tensorpress.sources.inputs import EmbeddedCorpus, HubCorpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN = 50
"""Letters and digits that are compared at a time."""
CHANCE = 0.01
"""Share of the evaluated text's runs that another text may have by chance."""
NOTICE, HALF = 1500, 0.5
"""Runs that a licence or a form letter has; a text of which it would be half is no text."""
SAMPLED = 10_000
"""About so many runs of the evaluated text are looked for, or all."""
BLOCK = 2**22
"""Characters that are worked on at a time."""
_BETWEEN = re.compile(r"[\W_]+")
_KNOWN = Path("results/.shared-texts.json")


@cache
def shared_text(evaluated: CorpusArtifact, trained: CorpusArtifact) -> str | None:
    """Where the evaluated text first stands in the other; ``None`` if hardly any of it does.

    ``None`` too where a text is known by its name alone (from the hub, without a path), and for
    the embedded ones, which share no paragraph, and for images, of which no split shares one. What
    was found is remembered by content.
    """
    specs = (evaluated.spec, trained.spec)
    unread = any(isinstance(spec, HubCorpus) and spec.path is None for spec in specs)
    images = any(spec.holds == "images" for spec in specs)
    if unread or images or all(isinstance(spec, EmbeddedCorpus) for spec in specs):
        return None
    pair = key(texts=[evaluated.key, trained.key], code=code_fingerprint(__name__))
    known: dict[str, str | None] = {}
    with suppress(OSError, ValueError):
        known = json.loads(_KNOWN.read_text(encoding="utf-8"))
    if pair not in known:
        known[pair] = common(*(text_of(each.name, each.spec) for each in (evaluated, trained)))
        # planning works without, also where nothing can be written
        with suppress(OSError, TensorpressError), replacing(_KNOWN) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")
    return known[pair]


def common(evaluated: str, trained: str) -> str | None:
    """The first words of ``evaluated`` that stand in ``trained``, if they have much in common."""
    import numpy as np

    step, wanted, places = _sample(evaluated)
    if not wanted.size:
        return None
    met = np.zeros(wanted.size, dtype=bool)
    for _, _, found in _runs(trained, step):
        near = np.searchsorted(wanted, found).clip(max=wanted.size - 1)
        met[near[wanted[near] == found]] = True
    share = met.mean()
    if share <= CHANCE or (share <= HALF and met.sum() * step <= NOTICE):
        return None
    return _words(evaluated, int(places[met].min()))


def _sample(text: str) -> tuple[int, NDArray, NDArray]:
    """One in so many of a text's distinct runs: that number, hashes ``(n,)``, and where each is."""
    import numpy as np

    step = max(1, len(text) // SAMPLED)
    while True:
        blocks = [(at + offsets, hashes) for at, offsets, hashes in _runs(text, step)]
        places = np.concatenate([np.empty(0, dtype=np.int64), *(each for each, _ in blocks)])
        found = np.concatenate([np.empty(0, dtype=np.uint64), *(each for _, each in blocks)])
        wanted, first = np.unique(found, return_index=True)
        if step == 1 or wanted.size >= SAMPLED // 10:
            return step, wanted, places[first]
        step = max(1, step // 10)  # a text that says the same again and again


def _runs(text: str, step: int) -> Iterator[tuple[int, NDArray, NDArray]]:
    """Hashes of the runs of a text, block by block, one in ``step`` by its content.

    First the letters before the block, then offsets of runs in it ``(n,)`` and hashes ``(n,)``.
    """
    import numpy as np

    letters, done = "", 0
    for start in range(0, len(text), BLOCK):
        letters += _letters(text[start : start + BLOCK])
        if len(letters) < RUN:
            continue
        hashes = _hashes(np.frombuffer(letters.encode("utf-32-le"), dtype=np.uint32))
        (offsets,) = (hashes % np.uint64(step) == 0).nonzero()
        yield done, offsets, hashes[offsets]
        done += len(hashes)
        letters = letters[len(hashes) :]


def _letters(text: str) -> str:
    """Letters and digits alone, without accents, in one case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
    return _BETWEEN.sub("", text.casefold())


def _hashes(codes: NDArray) -> NDArray:
    """Of each run of ``RUN`` codes: from those of shorter runs side by side, ``(n - RUN + 1,)``."""
    import numpy as np

    lengths = {1: _mixed(codes.astype(np.uint64))}
    for left, right in ((1, 1), (2, 1), (3, 3), (6, 6), (12, 12), (24, 1), (25, 25)):
        count = len(codes) - left - right + 1
        first, second = lengths[left][:count], lengths[right][left : left + count]
        lengths[left + right] = _mixed(first * np.uint64(0x9E3779B97F4A7C15) + second)
    return lengths[RUN]


def _mixed(values: NDArray) -> NDArray:
    """A finaliser of 64-bit hashes (Stafford's mix 13 in short): every bit depends on every bit."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(27))


def _words(text: str, letters: int) -> str:
    """What stands in a text after so many letters."""
    for match in re.finditer(r"[^\W_]+", text):
        inside = len(_letters(match.group()))
        if letters < inside:
            # a script without spaces has long words
            start = match.start() + (letters if inside > RUN else 0)
            return " ".join(text[start : start + 3 * RUN].split())
        letters -= inside
    return ""
