"""Interpolated modified Kneser-Ney n-gram over token ids (Chen & Goodman 1998)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tqdm import tqdm

Gram = tuple[int, ...]


class KneserNey:
    """Probabilities of the next token given up to ``order - 1`` tokens before it."""

    def __init__(self, ids: Sequence[int], order: int, vocabulary: int) -> None:
        self.order = order
        self._uniform = 1.0 / vocabulary
        counts: Counter[Gram] = Counter(
            tuple(ids[i : i + order]) for i in range(len(ids) - order + 1)
        )
        # histories at the very start of the text are shorter than the order: leave them out
        self._tables: list[_Table] = []
        for length in range(order, 0, -1):
            self._tables.append(_Table(counts))
            if length > 1:
                # lower orders count in how many contexts a gram appears, not how often
                counts = Counter(gram[1:] for gram in counts)
        self._tables.reverse()

    def probability(self, history: Gram, token: int) -> float:
        """``P(token | history)``, interpolated over all orders down to the uniform one."""
        probability = self._uniform
        for length in range(min(len(history), self.order - 1) + 1):
            context = history[len(history) - length :]
            probability = self._tables[length].interpolate(context, token, probability)
        return probability


class _Table:
    """Counts of one order with its three discounts."""

    def __init__(self, counts: Counter[Gram]) -> None:
        self._counts = counts
        ones, twos, threes, fours = (
            max(1, n) for n in map(Counter(counts.values()).__getitem__, (1, 2, 3, 4))
        )
        base = ones / (ones + 2 * twos)
        raw = (
            1 - 2 * base * twos / ones,
            2 - 3 * base * threes / twos,
            3 - 4 * base * fours / threes,
        )
        self._discounts = tuple(
            min(max(value, 0.0), float(place)) for place, value in enumerate(raw, start=1)
        )
        self._totals: defaultdict[Gram, int] = defaultdict(int)
        self._reserved: defaultdict[Gram, float] = defaultdict(float)
        for gram, count in counts.items():
            self._totals[gram[:-1]] += count
            self._reserved[gram[:-1]] += self._discounts[min(count, 3) - 1]

    def interpolate(self, context: Gram, token: int, lower: float) -> float:
        total = self._totals.get(context, 0)
        if not total:
            return lower
        count = self._counts.get((*context, token), 0)
        kept = count - self._discounts[min(count, 3) - 1] if count else 0.0
        return (kept + self._reserved[context] * lower) / total


def window_nats(
    training: Sequence[int], windows: Sequence[Sequence[int]], order: int, vocabulary: int
) -> Iterator[float]:
    """Mean negative log-likelihood of every token of each window but the first."""
    model = KneserNey(training, order, vocabulary)
    for ids in tqdm(windows, desc="n-gram", unit="window", leave=False):
        total = 0.0
        for place in range(1, len(ids)):
            history = tuple(ids[max(0, place - order + 1) : place])
            total -= math.log(model.probability(history, ids[place]))
        yield total / (len(ids) - 1)
