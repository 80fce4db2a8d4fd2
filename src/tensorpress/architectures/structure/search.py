"""A family by the structure of its class: found in a small random model, sized by an empty one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.pytorch_utils import Conv1D

from tensorpress.architectures.families.base import Experts, Slot
from tensorpress.architectures.families.found import Structure
from tensorpress.architectures.layers import MODULES, LayerShape, ModuleShape
from tensorpress.architectures.structure import experts as fused_experts
from tensorpress.architectures.structure.roles import Place, Roles, feed_forward, mixer
from tensorpress.architectures.structure.small import (
    HEADS,
    HIDDEN,
    MOST_VALUES,
    VOCABULARY,
    WIDEST,
    small,
)
from tensorpress.architectures.structure.watching import TOKENS, Call, randomised, watched
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import one_line


class NotUnderstood(Exception):
    """Why the structure of a model was not understood."""


@dataclass(frozen=True)
class _Kind:
    """What was found in a block, and in all that have its tensors."""

    roles: Roles
    experts: Experts | None


def find(config: Mapping[str, Any], where: str) -> Structure:
    """The structure of the model that a ``config.json`` describes.

    A small model of its class, of random values, is run once to see what reads what. Raises
    ``TensorpressError`` that says why, where the structure is not understood; ``where`` names the
    model.
    """
    model_type = str(config.get("model_type"))
    try:
        return _found(config)
    except NotUnderstood as error:
        reason = str(error)
    # whatever a class says to a config, or to one with smaller numbers
    except Exception as error:
        reason = (
            f"a small model of it does not run ({type(error).__name__}: {one_line(error)[:150]})"
        )
    raise TensorpressError(
        f"{where}: model_type {model_type!r} has no family file and a structure that is not "
        f"understood: {reason}; allowed: the types in docs/families.md"
    )


def _found(config: Mapping[str, Any]) -> Structure:
    settings = _config(config)
    reduced = _config(small(settings.to_dict()))
    with torch.device("meta"):
        large = AutoModelForCausalLM.from_config(settings)
        values = sum(p.numel() for p in AutoModelForCausalLM.from_config(reduced).parameters())
    if values > MOST_VALUES:
        raise NotUnderstood("its matrices do not follow the sizes of its config")
    tiny = randomised(AutoModelForCausalLM.from_config(reduced, attn_implementation="eager"))
    _check_causal(tiny)
    layers = _layers_path(tiny)
    embedding, head = _ends(tiny)
    kinds = _kinds(tiny, layers)
    return _Sizes(large, settings, layers, kinds).structure(embedding, head)


def _config(config: Mapping[str, Any]) -> PreTrainedConfig:
    settings: PreTrainedConfig = AutoConfig.for_model(**config)
    if type(settings) not in AutoModelForCausalLM._model_mapping:
        raise NotUnderstood("transformers has no causal language model of this type")
    return settings


def _check_causal(model: PreTrainedModel) -> None:
    """Refuse a model in which a token sees later ones: that predicts what it was given."""
    ids = torch.arange(1, TOKENS + 1)[None]
    other = ids.clone()
    other[0, -1] = 0
    with torch.no_grad():
        found, changed = (model(input_ids=each, use_cache=False).logits[0] for each in (ids, other))
    if not torch.allclose(found[:-1], changed[:-1], atol=1e-4, rtol=1e-3):
        raise NotUnderstood("its tokens see later ones")
    if torch.allclose(found[-1], changed[-1], atol=1e-4, rtol=1e-3):
        raise NotUnderstood("its last token changes nothing")


def _layers_path(model: PreTrainedModel) -> str:
    """Where the blocks of the decoder are: the list that holds most of its weights."""
    decoder: Any = model.get_decoder()
    lists = {p: m for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    inside = {id(module) for module in decoder.modules()}
    sizes = {
        path: sum(p.numel() for p in module.parameters())
        for path, module in lists.items()
        if id(module) in inside
    }
    if not sizes:
        raise NotUnderstood("no list of layers in its decoder")
    return max(sizes, key=lambda path: (sizes[path], -len(path)))


def _ends(model: PreTrainedModel) -> tuple[str, str]:
    """Paths of the embedding and of the head, which must be what they look like."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    paths = {id(module): path for path, module in model.named_modules()}
    if not isinstance(embedding, nn.Embedding) or embedding.weight.shape != (VOCABULARY, HIDDEN):
        raise NotUnderstood("its embedding is not one matrix of the vocabulary by the hidden size")
    if not isinstance(head, nn.Linear) or head.weight.shape != (VOCABULARY, HIDDEN):
        raise NotUnderstood(
            "its head is not one linear layer from the hidden size to the vocabulary"
        )
    ids = torch.arange(5)
    scale = getattr(embedding, "scalar_embed_scale", 1.0)
    if not torch.allclose(embedding(ids), embedding.weight[ids] * scale):
        raise NotUnderstood("its embedding does more than to look up rows")
    return paths[id(embedding)], paths[id(head)]


def _signature(block: nn.Module) -> tuple[Any, ...]:
    return tuple((name, tuple(p.shape)) for name, p in block.named_parameters())


def _kinds(model: PreTrainedModel, path: str) -> list[_Kind]:
    """What every block is, looked at once for all that have equal tensors."""
    blocks: Any = model.get_submodule(path)
    signatures = [_signature(block) for block in blocks]
    first = {signature: signatures.index(signature) for signature in dict.fromkeys(signatures)}
    ids = torch.arange(1, TOKENS + 1)[None]
    found = {}
    for signature, index in first.items():
        if any(side > WIDEST for _, shape in signature for side in shape):
            raise NotUnderstood("its matrices do not follow the sizes of its config")
        with torch.enable_grad(), watched(blocks[index]) as calls:
            model(input_ids=ids, use_cache=False)
        found[signature] = _kind(model, blocks[index], calls)
    return [found[signature] for signature in signatures]


def _kind(model: PreTrainedModel, block: nn.Module, calls: list[Call]) -> _Kind:
    mixing = mixer(calls, HEADS)
    taken = mixing.calls if mixing else ()
    roles = dict(mixing.roles) if mixing else {}
    experts = None
    inside = fused_experts.experts_in(block)
    if inside is None:
        roles |= feed_forward([call for call in calls if call not in taken], HIDDEN)
    else:
        stored = _stored_experts(str(model.config.model_type), inside[0])
        experts = fused_experts.layout(*inside, HIDDEN, stored)
    return _Kind(roles, experts)


def _stored_experts(model_type: str, path: str) -> fused_experts.Stored | None:
    """How checkpoints hold experts one by one, by transformers' own conversions."""
    found: dict[str, str] = {}
    module = ""
    for each in get_checkpoint_conversion_mapping(model_type) or ():
        if isinstance(each, WeightRenaming) or len(each.target_patterns) != 1:
            continue
        target = each.target_patterns[0].rpartition(".")[2]
        names = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}.get(target, ())
        if len(names) != len(each.source_patterns):
            continue
        for name, source in zip(names, each.source_patterns, strict=True):
            module, _, rest = source.replace("\\.", ".").partition(".*.")
            found[name] = rest.removesuffix("$").removesuffix(".weight")
    if len(found) != 3:
        return None
    # patterns begin somewhere in a layer
    module = module.lstrip("^.")
    parent = path.rpartition(".")[0]
    return (module if "." in module else f"{parent}.{module}"), found


class _Sizes:
    """The structure of the large model: what was found in a small one, with its own sizes."""

    def __init__(
        self, large: PreTrainedModel, settings: PreTrainedConfig, layers: str, kinds: list[_Kind]
    ) -> None:
        self._large, self._path, self._kinds = large, layers, kinds
        self._settings = settings.get_text_config()
        self._blocks: Any = large.get_submodule(layers)
        self._heads = int(self._settings.num_attention_heads)
        self._hidden = int(self._settings.hidden_size)
        self._slots: dict[str, Slot] = {}

    def structure(self, embedding: str, head: str) -> Structure:
        experts = [kind.experts for kind in self._kinds if kind.experts]
        shapes = [self._shape(i, kind) for i, kind in enumerate(self._kinds)]
        modules = {module for shape in shapes for module in shape.modules}
        if "attention.o" not in modules or not modules & {"ffn.down", "experts.down"}:
            lacking = "attention" if "attention.o" not in modules else "feed-forward part"
            raise NotUnderstood(f"no {lacking} of it computes what is known")
        table: Any = self._large.get_submodule(embedding)
        like = next(shape for shape in shapes if "attention.o" in shape.modules)
        outer = LayerShape(
            self._hidden,
            self._heads,
            like.kv_heads,
            like.head_dim,
            {"embedding": ModuleShape(*table.weight.shape)},
            len(shapes),
        )
        held = self._large.state_dict()
        ends = {f"{embedding}.weight", f"{head}.weight"}
        values = sum(tensor.numel() for name, tensor in held.items() if name not in ends)
        return Structure(
            model_type=str(self._large.config.model_type),
            layer=f"{self._path}.{{layer}}",
            embedding=embedding,
            head=head,
            linears=self._slots,
            experts=experts[0] if experts else None,
            shapes=(*shapes, outer),
            sizes=self._named_sizes(),
            renames=_renames(str(self._large.config.model_type)),
            values=values + 2 * table.weight.numel(),
        )

    def _named_sizes(self) -> dict[str, int]:
        names = {
            "hidden": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "inner": "intermediate_size",
            "top_k": "num_experts_per_tok",
            "positions": "max_position_embeddings",
        }
        found = {what: getattr(self._settings, name, None) for what, name in names.items()}
        return {what: int(value) for what, value in found.items() if isinstance(value, int)}

    def _shape(self, layer: int, kind: _Kind) -> LayerShape:
        block = self._blocks[layer]
        roles = kind.roles
        head_dim, kv_heads = self._hidden // self._heads, self._heads
        if "attention.o" in roles:
            head_dim = _sides(block.get_submodule(roles["attention.o"].path))[1] // self._heads
            kv_heads = self._kv_heads(block, roles, head_dim)
        sizes = {"head": head_dim, "kv": kv_heads}
        modules = {m: self._module(block, m, place, sizes) for m, place in roles.items()}
        if kind.experts is not None:
            modules |= self._experts(block, kind.experts)
        order = [m for m in MODULES if m in modules]
        return LayerShape(
            self._hidden, self._heads, kv_heads, head_dim, {m: modules[m] for m in order}, layer
        )

    def _kv_heads(self, block: nn.Module, roles: Roles, head_dim: int) -> int:
        v = roles.get("attention.v")
        if v is None:
            return self._heads
        out, _ = _sides(block.get_submodule(v.path))
        if len(v.shares) == 1:
            return out // head_dim
        # q, k and v together, as many heads of v as of k
        return (out // head_dim - self._heads) // 2

    def _module(
        self, block: nn.Module, module: str, place: Place, sizes: Mapping[str, int]
    ) -> ModuleShape:
        linear: Any = block.get_submodule(place.path)
        out, inputs = _sides(linear)
        slot = Slot(place.path, transposed=isinstance(linear, Conv1D))
        if len(place.shares) > 1:
            slot = self._fused(place, out, slot.transposed, module, sizes)
            unit = out // slot.group_count(self._heads) // sum(slot.shares)
            out = unit * slot.shares[slot.part] * slot.group_count(self._heads)
        if self._slots.setdefault(module, slot) != slot:
            raise NotUnderstood(f"its layers have {module} in several places")
        return ModuleShape(out, inputs)

    def _fused(
        self, place: Place, out: int, transposed: bool, module: str, sizes: Mapping[str, int]
    ) -> Slot:
        """The same parts in the large model, whose groups are as many as something it has."""
        if module.startswith("ffn"):
            groups = 1 if place.groups == 1 else out // 2
            return Slot(place.path, place.part, (1, 1), groups, transposed)
        kv_heads = sizes["kv"]
        small_kv = {self._heads: HEADS, 1: 1}.get(kv_heads, 2)
        known = {1: 1, HEADS: self._heads, small_kv: kv_heads}
        groups = known.get(place.groups, place.groups)
        unit = HIDDEN // HEADS
        counts = [share * place.groups // unit for share in place.shares]  # heads of each part
        large = [{HEADS: self._heads, small_kv: kv_heads}.get(each, 0) for each in counts]
        if sum(large) * sizes["head"] != out or any(each % groups for each in large):
            raise NotUnderstood(f"its fused {module} has other parts than in a small model")
        shares = tuple(each // groups * sizes["head"] for each in large)
        return Slot(place.path, place.part, shares, groups, transposed)

    def _experts(self, block: nn.Module, described: Experts) -> dict[str, ModuleShape]:
        module: Any = block.get_submodule(described.module)
        gate_up, down = module.gate_up_proj, module.down_proj
        count, hidden, inner = (down.mT if described.transposed else down).shape
        if gate_up.numel() != 2 * count * hidden * inner:
            raise NotUnderstood("its experts have other parts than in a small model")
        into, back = ModuleShape(inner, hidden, count), ModuleShape(hidden, inner, count)
        return {"experts.gate": into, "experts.up": into, "experts.down": back}


def _sides(linear: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    first, second = linear.weight.shape
    return (second, first) if isinstance(linear, Conv1D) else (first, second)


def _renames(model_type: str) -> tuple[tuple[str, str], ...]:
    """Patterns of names in the hub's checkpoints, and what the running model has for them."""
    return tuple(
        (source, each.target_patterns[0])
        for each in get_checkpoint_conversion_mapping(model_type) or ()
        if type(each) is WeightRenaming
        for source in each.source_patterns
        if re.compile(source)
    )
