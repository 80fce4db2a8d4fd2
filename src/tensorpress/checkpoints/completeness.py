"""Whether files hold the model that their config describes: all of its parameters and no others.

The model is built without values, and every tensor of the files must have its place in it. What
transformers would fill in at random, leave out or read as what it is not is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.errors import TensorpressError
from tensorpress.sources.headers import FLOATING, Stored, same_bytes

BUFFERS = re.compile(
    r"(^|\.)((attn|crossattention|attention)\.(masked_)?bias|attn\.embed_positions|position_ids"
    r"|rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached))$"
)
"""Masks, positions and frequencies that older checkpoints hold beside the weights of all families.

No model reads them. Where a model has a parameter of such a name, it is a parameter.
"""
_NAMED = 3
"""Tensors that an error names."""


@dataclass(frozen=True)
class Contents:
    """The tensors of a model by the names that its family gives them, and whether it is untied.

    ``untied``: the config says that the head is the embedding, and the files hold two matrices.
    """

    tensors: Mapping[str, Stored]
    untied: bool


def contents(
    name: str, model: PreTrainedModel, architecture: Architecture, stored: Mapping[str, Stored]
) -> Contents:
    """What the files of ``models.<name>`` hold for ``model``, which is on the meta device.

    A missing, unknown or double tensor, one of another shape and one whose values are no
    floating-point numbers of 16 bits or more raises ``TensorpressError``.
    """
    where, kind = f"models.{name}", type(model).__name__
    places = _Places(model, architecture)
    found: dict[str, Stored] = {}
    unknown = []
    for given, tensor in stored.items():
        place = places.of(given)
        if place is None and (_is_buffer(given, tensor) or architecture.family.leaves_out(given)):
            continue
        if tensor.dtype not in FLOATING and places.wants_floating(place):
            raise TensorpressError(
                f"{where}: tensor {given} holds numbers of type {tensor.dtype}, and nothing says "
                f"what they stand for; allowed: {', '.join(FLOATING)}"
            )
        if place is None:
            unknown.append(given)
            continue
        if place in found:
            raise TensorpressError(
                f"{where}: tensor {given} is there a second time, under another name; "
                "allowed: one tensor for every weight"
            )
        if tensor.shape != places.shapes[place]:
            raise TensorpressError(
                f"{where}: tensor {given} has shape {tensor.shape}, config.json says "
                f"{places.shapes[place]}"
            )
        found[place] = tensor
    if unknown:
        raise TensorpressError(
            f"{where}: {_listed(unknown)} no place in {kind} as config.json has it; "
            "allowed: the weights that the model runs with"
        )
    if twice := places.twice(found):
        raise TensorpressError(
            f"{where}: tensor {twice[0]} is there a second time, in one of all experts; "
            "allowed: one tensor for every weight"
        )
    ties: Mapping[str, str] = model.all_tied_weights_keys
    untied = any(differ(found, pair) for pair in ties.items())
    if not untied:
        for tied, source in ties.items():
            # the copy that there is, under the name of what the model looks tokens up in
            if tied in found:
                found[source] = found.pop(tied)
    if missing := places.missing(found, {} if untied else ties):
        raise TensorpressError(
            f"{where}: {_listed(missing, 'is', 'are')} missing; allowed: files with every weight "
            f"of {kind}"
        )
    return Contents(found, untied)


def differ(found: Mapping[str, Stored], tied: Iterable[str]) -> bool:
    """Whether tensors that the config ties are all there with other values: they are not tied.

    As transformers sees it. Of equal ones one is enough.
    """
    first, second = (found.get(name) for name in tied)
    return first is not None and second is not None and not same_bytes(first, second)


def _is_buffer(name: str, tensor: Stored) -> bool:
    """Whether it is no weight; a mask is square, and a vector of its name is some linear's bias."""
    return BUFFERS.search(name) is not None and not (
        name.endswith(".bias") and len(tensor.shape) == 1
    )


def _listed(names: Iterable[str], one: str = "has", more: str = "have") -> str:
    """``tensors a, b, c and 4 more are``."""
    names = sorted(names)
    if len(names) == 1:
        return f"tensor {names[0]} {one}"
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"tensors {', '.join(islice(names, _NAMED))}{rest} {more}"


class _Places:
    """Every name that a tensor may have in the files of a model, and the shape it must have."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        self._prefix, self._family = f"{model.base_model_prefix}.", architecture.family
        # with the parameters that are tied: files may hold either
        state = model.state_dict()
        self._whole_numbers = {n for n, each in state.items() if not each.is_floating_point()}
        self.shapes = {name: tuple(each.shape) for name, each in state.items()}
        self._shared = _shared(model)
        self._parts: dict[str, list[str]] = {}
        if architecture.family.experts is not None and architecture.family.experts.per_expert:
            self._add_experts(architecture)

    def _add_experts(self, architecture: Architecture) -> None:
        """Tensors that stand for fused ones, expert by expert, as the hub has them."""
        running = dict(self.shapes)
        for layer in architecture.expert_layers:
            for module, size in architecture.shape(layer).group("experts").items():
                fused = architecture.weight_source(layer, module, running).names
                parts = architecture.weight_source(layer, module, ()).names
                if fused == parts:
                    continue  # a class of its own that runs them one by one
                self._parts.setdefault(fused[0], []).extend(parts)
                self.shapes |= dict.fromkeys(parts, (size.out_features, size.in_features))

    def of(self, stored: str) -> str | None:
        """The place of a tensor, also where it was saved without the base model's prefix."""
        for name in (stored, f"{self._prefix}{stored}", stored.removeprefix(self._prefix)):
            for place in (name, self._family.running_name(name)):
                if place in self.shapes:
                    return place
        return None

    def wants_floating(self, place: str | None) -> bool:
        """Whether what stands there is a weight."""
        return place not in self._whole_numbers

    def missing(self, found: Mapping[str, Stored], ties: Mapping[str, str]) -> list[str]:
        """What nothing stands for; a fused weight is there as a whole or expert by expert."""
        parts = {part for each in self._parts.values() for part in each}
        lacking = []
        for name in self.shapes.keys() - parts - found.keys() - ties.keys():
            if found.keys() & self._shared.get(name, set()):
                continue
            in_parts = self._parts.get(name, [])
            lacking += [part for part in in_parts if part not in found] if in_parts else [name]
        return sorted(lacking)

    def twice(self, found: Mapping[str, Stored]) -> list[str]:
        """Experts' own tensors beside the fused one that holds them."""
        fused = self._parts.keys() & found.keys()
        return [part for name in sorted(fused) for part in self._parts[name] if part in found]


def _shared(model: PreTrainedModel) -> dict[str, set[str]]:
    """Names of one parameter in modules that a class of its own uses twice; files hold it once."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    # whether those are one is for the files to say
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    return {name: group for group in names.values() for name in group - tied}
