"""A transformers model whose listed modules run in factored form.

``assembly`` copies this folder's files into each compressed checkpoint, so that
``AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)`` needs only transformers.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .adapters import attach
from .base import STORES, Format
from .build import build
from .modules import FactoredEmbedding, FactoredExperts, FactoredLinear, gate_of, store_names


class FactoredMixin:
    """Replaces modules after the base class has built them, before weights are loaded."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        install(self, getattr(config, STORES))  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As any model's, but a weight that the files lack is an error, not made up at random.

        ``output_loading_info``: the caller reads the report; else ``ValueError`` names the weight.
        """
        load = super().from_pretrained  # type: ignore[misc]
        model, report = load(*args, output_loading_info=True, **kwargs)
        if output_loading_info:
            return model, report
        if said := disagreement(report):
            raise ValueError(f"{args[0]}: {said}")
        return model


def disagreement(report: dict[str, Any]) -> str | None:
    """What transformers' report on a load (``output_loading_info``) says that no load should."""
    mismatched = {each[0] for each in report["mismatched_keys"]}
    found = {
        "missing": report["missing_keys"],
        "left over": report["unexpected_keys"],
        "of another shape": mismatched,
    }
    said = [f"{sorted(names)[0]} is {what}" for what, names in found.items() if names]
    return ", ".join(said) or None


def install(model: nn.Module, plan: dict[str, Any]) -> None:
    """Put empty factored modules in place of those that ``plan`` lists.

    ``plan["stores"]``: factor sets ``{owner, name, format, settings}``, held by the layer (or the
    model) at ``owner``. ``plan["linears"]``: ``{path, parts, heads}``, each part a store's owner,
    name and slice. ``plan["embeddings"]``: ``{path, part}``. ``plan["experts"]``: ``{path, gate,
    up, down, biases, clamp}``, each projection ``{format, settings}``, or all of them ``shared``.
    ``plan["adapters"]``: ``{path, format, settings}`` beside a linear layer.
    """
    for entry in plan["stores"]:
        owner = model.get_submodule(entry["owner"])
        if not hasattr(owner, STORES):
            owner.add_module(STORES, nn.ModuleDict())
        owner.get_submodule(STORES).add_module(entry["name"], _store(entry))

    def part(where: list[Any]) -> tuple[Format, int]:
        owner, name, index = where
        held = model.get_submodule(owner).get_submodule(f"{STORES}.{name}")
        return held, index  # type: ignore[return-value]

    for entry in plan["linears"]:
        has_bias = getattr(model.get_submodule(entry["path"]), "bias", None) is not None
        linear = FactoredLinear([part(where) for where in entry["parts"]], has_bias, entry["heads"])
        model.set_submodule(entry["path"], linear)
    for entry in plan["embeddings"]:
        scale = getattr(model.get_submodule(entry["path"]), "scalar_embed_scale", 1.0)
        model.set_submodule(entry["path"], FactoredEmbedding(part(entry["part"])[0], scale))
    for entry in plan["experts"]:
        stores = {name: _store(entry[name]) for name in store_names(entry)}
        replaced: Any = model.get_submodule(entry["path"])
        act = gate_of(replaced, entry["clamp"])
        experts = FactoredExperts(**stores, act=act, biases=entry["biases"])
        model.set_submodule(entry["path"], experts)
    for entry in plan["adapters"]:
        attach(model.get_submodule(entry["path"]), _store(entry))


def _store(entry: dict[str, Any]) -> Format:
    return build(entry["format"], entry["settings"])


def factored_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of compressed models of ``base``, with a config type of its own.

    Its ``model_type`` differs from the base's, so that nothing loads a compressed checkpoint as
    a plain model with missing weights.
    """
    config: type[PreTrainedConfig] = base.config_class  # type: ignore[assignment]
    own_config = type(
        f"Tensorpress{config.__name__}",
        (config,),
        {"model_type": f"tensorpress_{config.model_type}"},
    )
    members = {"config_class": own_config, "__module__": __name__}
    return type(f"Tensorpress{base.__name__}", (FactoredMixin, base), members)
