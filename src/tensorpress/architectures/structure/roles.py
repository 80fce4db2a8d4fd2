"""Which linear layers of a block are q, k, v, o, gate, up and down: by what depends on what.

Names tell nothing here. The first matrix whose inputs at the last token depend on what others gave
at the first one is attention's ``o``: these others make keys or values. In a head, one value moves
one of its inputs, a key all of them, and a query does so at its own token. A ``down`` reads numbers
of which each depends on one output of ``up``, and of ``gate`` if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tensorpress.architectures.structure.watching import Call, gradients

FIRST, LAST = 0, -1


@dataclass(frozen=True)
class Place:
    """A module's outputs in those of a linear layer of a small model: ``groups`` of ``shares``."""

    path: str
    part: int = 0
    shares: tuple[int, ...] = (1,)
    groups: int = 1


Roles = dict[str, Place]


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens: its last matrix, all that feeds it, and its modules if it is attention."""

    calls: tuple[Call, ...]
    roles: Roles


def mixer(calls: Sequence[Call], heads: int) -> Mixer | None:
    """What mixes the tokens of a block; without roles where that is no softmax attention."""
    for number, out in enumerate(calls):
        before = calls[:number]
        found = gradients(_mixed(out.x[LAST]), before)
        if any(bool(each[FIRST].any()) for each in found):
            feeding = [c for c, g in zip(before, found, strict=True) if bool(g.any())]
            return Mixer((*feeding, out), _attention(out, feeding, heads))
    return None


def _mixed(row: Tensor) -> Tensor:
    """A number that depends on all of a row."""
    weights = torch.linspace(1, 2, len(row), dtype=row.dtype)
    return (row * weights).sum()


def _attention(out: Call, feeding: Sequence[Call], heads: int) -> Roles:
    """The modules of attention that ends in ``out``; none where its heads do not show."""
    width = out.x.shape[-1]
    if width % heads:
        return {}
    rows = [gradients(value, feeding) for value in out.x[LAST]]
    labels: dict[Call, list[str]] = {}
    for index, call in enumerate(feeding):
        jacobian = torch.stack([row[index] for row in rows]) != 0
        by_head = jacobian.unflatten(0, (heads, -1))
        first, last = by_head[:, :, FIRST], by_head[:, :, LAST]
        labels[call] = [_label(first[..., i], last[..., i]) for i in range(call.y.shape[-1])]
    feeds = {call for call in feeding if any(_reads(other, call) for other in feeding)}
    direct = {call: names for call, names in labels.items() if call not in feeds}
    projections = {call: names for call, names in direct.items() if set(names) & set("qkv")}
    last = {"attention.o": Place(out.path)}
    if len({call.x.data_ptr() for call in projections}) > 1:
        found = _low_rank(projections, feeds)
        return found | last if found else {}
    places = _places(projections)
    if set(places) != set("qkv"):
        return {}
    return {f"attention.{name}": places[name] for name in "qkv"} | last


def _low_rank(projections: dict[Call, list[str]], feeds: set[Call]) -> Roles:
    """Attention whose keys and values, and queries if they like, come by way of a few numbers."""
    found: Roles = {}
    for call, names in projections.items():
        kinds = set(names) - {"-"}
        below = [each for each in feeds if _reads(call, each)]
        name = {frozenset("q"): "q", frozenset("kv"): "kv"}.get(frozenset(kinds))
        if name is None or len(below) > 1 or (name == "kv" and not below):
            return {}
        if below:
            found[f"attention.{name}_down"] = Place(below[0].path)
            found[f"attention.{name}_up"] = Place(call.path)
        else:
            found[f"attention.{name}"] = Place(call.path)
    whole = {"attention.q", "attention.q_up"} & found.keys() and "attention.kv_up" in found
    return found if whole else {}


def _reads(call: Call, of: Call) -> bool:
    """Whether a matrix reads what another one of the same attention made."""
    return call is not of and bool(gradients(_mixed(call.x[LAST]), [of])[0].any())


def _label(first: Tensor, last: Tensor) -> str:
    """What one output is, by the inputs of ``o`` that it moves, ``(heads, inputs of a head)``."""
    if _is_whole(first):
        return "k"
    if _is_single(first):
        return "v"
    if first.any():
        return "?"
    return "q" if _is_whole(last) else "-"


def _is_whole(moved: Tensor) -> bool:
    each = moved.sum(1)
    return bool(each.any()) and bool(((each == 0) | (each == moved.shape[1])).all())


def _is_single(moved: Tensor) -> bool:
    each = moved.sum(1)
    return bool(each.any()) and bool((each <= 1).all())


def _places(labels: dict[Call, list[str]]) -> Roles:
    """Where the outputs of each label are; nothing where they lie in no order."""
    found: Roles = {}
    for call, names in labels.items():
        kinds = set(names) - {"-"}
        # what else a projection of queries gives, as a gate, stays with them
        made = {kinds.pop(): Place(call.path)} if len(kinds) == 1 else fused(call.path, names)
        if made.keys() & found.keys():
            return {}
        found |= made
    return found


def fused(path: str, labels: Sequence[str]) -> Roles:
    """The parts of a fused layer whose outputs have these labels in turn."""
    runs = [(label, len(list(same))) for label, same in groupby(labels)]
    parts = len(set(labels))
    groups, rest = divmod(len(runs), parts)
    names = [label for label, _ in runs[:parts]]
    if rest or runs != runs[:parts] * groups or len(set(names)) != parts:
        return {}
    shares = tuple(count for _, count in runs[:parts])
    return {label: Place(path, i, shares, groups) for i, label in enumerate(names)}


def feed_forward(calls: Sequence[Call], hidden: int) -> Roles:
    """Gate, up and down of the widest gated or plain pair of matrices; nothing without one."""
    best: Roles = {}
    widest = 0
    for number, down in enumerate(calls):
        before, width = calls[:number], down.x.shape[-1]
        if down.y.shape[-1] != hidden or width <= widest or not before:
            continue
        rows = [gradients(down.x[:, i].sum(), before) for i in range(width)]
        jacobians = [torch.stack([row[index] for row in rows]) for index in range(len(before))]
        # a rectified output may be silent at one token
        makers = {
            call: jacobian
            for call, jacobian in zip(before, jacobians, strict=True)
            if _one_to_one((jacobian != 0).any(1))
        }
        roles = _gated(makers, down)
        if roles:
            best, widest = roles, width
    return best


def _one_to_one(moved: Tensor) -> bool:
    """Whether inputs ``(in, out)`` depend on one output each, or on two, and share it with none.

    A few may depend on none: a rectified number that is negative at every token.
    """
    counts = moved.sum(1)
    most = int(counts.max())
    alike = (counts == most) | (counts == 0)
    enough = 2 * int((counts == most).sum()) > len(counts)
    return most in (1, 2) and bool(alike.all()) and enough and bool((moved.sum(0) <= 1).all())


def _gated(makers: dict[Call, Tensor], down: Call) -> Roles:
    last = {"ffn.down": Place(down.path)}
    if len(makers) == 1:
        ((call, jacobian),) = makers.items()
        if call.y.shape[-1] == down.x.shape[-1]:
            return {"ffn.up": Place(call.path), **last}
        up = set(_linear_in(call, jacobian, down))
        labels = ["up" if i in up else "gate" for i in range(call.y.shape[-1])]
        parts = fused(call.path, labels)
        named = {f"ffn.{name}": place for name, place in parts.items()}
        return named | last if len(named) == 2 else {}
    if len(makers) == 2 and len({call.x.data_ptr() for call in makers}) == 1:
        calls = sorted(makers, key=lambda c: len(_linear_in(c, makers[c], down)))
        return {"ffn.gate": Place(calls[0].path), "ffn.up": Place(calls[1].path), **last}
    return {}


def _linear_in(call: Call, jacobian: Tensor, down: Call) -> list[int]:
    """Outputs of which a number that ``down`` reads is a multiple: those of ``up``."""
    y = call.y.reshape(-1, call.y.shape[-1])
    found = []
    for number, along in enumerate(jacobian):  # (tokens, out)
        for channel in along.any(0).nonzero()[:, 0].tolist():
            product = along[:, channel] * y[:, channel]
            if torch.allclose(product, down.x[:, number], rtol=1e-3, atol=1e-6):
                found.append(channel)
    return found
