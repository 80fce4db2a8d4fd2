"""How a generated answer is compared with the true one: containment and token F1."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def contains(generated: str, answer: str) -> bool:
    """Whether the answer stands in the generated text, whatever the case (LASER, TensorLLM)."""
    return answer.strip().lower() in generated.lower()


def token_f1(generated: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the answer's normalised words (SQuAD)."""
    found, wanted = (Counter(normalised(text).split()) for text in (generated, answer))
    common = (found & wanted).total()
    if not common:
        return float(found == wanted)
    return 2 * common / (found.total() + wanted.total())


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
