"""A transformers model whose listed modules run in factored form.

``assembly`` copies this folder's files into each compressed checkpoint, so that
``AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)`` needs only transformers.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .base import STORES
from .modules import FactoredExperts, FactoredLinear
from .table import FORMATS


class FactoredMixin:
    """Replaces modules after the base class has built them, before weights are loaded."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        install(self, getattr(config, STORES))  # type: ignore[arg-type]


def install(model: nn.Module, plan: dict[str, Any]) -> None:
    """Put empty factored modules in place of those that ``plan`` lists.

    ``plan["linears"]``: entries ``{layer, name, format, settings, paths}``, a store for the
    linear layers at ``paths`` (slice i serves path i). ``plan["experts"]``: entries
    ``{path, gate, up, down}``, each projection ``{format, settings}``.
    """
    for entry in plan["linears"]:
        layer = model.get_submodule(entry["layer"])
        if not hasattr(layer, STORES):
            layer.add_module(STORES, nn.ModuleDict())
        store = FORMATS[entry["format"]](**entry["settings"])
        layer.get_submodule(STORES).add_module(entry["name"], store)
        for index, path in enumerate(entry["paths"]):
            has_bias = getattr(model.get_submodule(path), "bias", None) is not None
            model.set_submodule(path, FactoredLinear(store, index, has_bias))
    for entry in plan["experts"]:
        stores = {
            name: FORMATS[entry[name]["format"]](**entry[name]["settings"])
            for name in ("gate", "up", "down")
        }
        activation = model.get_submodule(entry["path"]).act_fn
        experts = FactoredExperts(**stores, act_fn=activation)  # type: ignore[arg-type]
        model.set_submodule(entry["path"], experts)


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
