"""What a family file states: where a Hugging Face model keeps the weights of each module.

Torch-free: planning reads shapes from a ``config.json`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.layers import LayerShape, ModuleShape, group_of

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Experts:
    """Names of the fused experts module and of its tensors.

    On disk a checkpoint holds either one tensor per expert (``per_expert``, the hub's form) or
    the fused ones that transformers 5 runs: gate and up stacked ``(E, 2 * inner, hidden)`` and
    down ``(E, hidden, inner)``.
    """

    module: str
    gate_up: str
    down: str
    per_expert: Mapping[str, str]


@dataclass(frozen=True)
class WeightSource:
    """Where a module's weight lies in a checkpoint.

    One name per matrix, to be stacked if ``stacked``; or one fused tensor ``(E, rows, in)`` of
    which ``rows`` (first, end) belong to the module.
    """

    names: tuple[str, ...]
    rows: tuple[int, int] | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Family:
    """Names and shapes of one ``model_type``; layer-relative names are joined to ``layer``."""

    model_type: str
    layer: str
    linears: Mapping[str, str]
    embeddings: tuple[str, ...]
    experts: Experts | None = None
    has_experts: Callable[[Config, int], bool] = lambda config, layer: False
    """Whether a layer routes its tokens to experts in place of one FFN."""

    def layer_count(self, config: Config) -> int:
        """Number of transformer layers."""
        return int(config["num_hidden_layers"])

    def layer_path(self, layer: int) -> str:
        """Module path of a layer: ``model.layers.3``."""
        return self.layer.format(layer=layer)

    def linear_path(self, layer: int, module: str) -> str:
        """Module path of the linear layer that holds ``module``."""
        return f"{self.layer_path(layer)}.{self.linears[module]}"

    def experts_path(self, layer: int) -> str:
        """Module path of a layer's experts."""
        if self.experts is None:
            raise TensorpressError(f"model_type {self.model_type} has no experts")
        return f"{self.layer_path(layer)}.{self.experts.module}"

    def layer_shape(self, config: Config, layer: int) -> LayerShape:
        """Shapes of every module of ``layer``, from the config alone."""
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or hidden // heads)
        shapes = {
            "attention.q": ModuleShape(heads * head_dim, hidden),
            "attention.k": ModuleShape(kv_heads * head_dim, hidden),
            "attention.v": ModuleShape(kv_heads * head_dim, hidden),
            "attention.o": ModuleShape(hidden, heads * head_dim),
        }
        if self.has_experts(config, layer):
            # the hub's configs say num_experts, those that transformers 5 saves num_local_experts
            slices = int(config.get("num_experts") or config["num_local_experts"])
            inner = int(config["moe_intermediate_size"])
            shapes |= _gated("experts", hidden, inner, slices)
        else:
            shapes |= _gated("ffn", hidden, int(config["intermediate_size"]), 1)
        return LayerShape(hidden, heads, kv_heads, head_dim, shapes)

    def all_modules(self, config: Config) -> tuple[str, ...]:
        """Modules that at least one layer of the model has."""
        layers = range(self.layer_count(config))
        return tuple({m: None for i in layers for m in self.layer_shape(config, i).modules})

    def weight_source(
        self, layer: int, module: str, shape: ModuleShape, stored: Container[str]
    ) -> WeightSource:
        """Which tensors of a checkpoint (``stored`` names) hold the weight of ``module``."""
        if group_of(module) != "experts":
            return WeightSource((f"{self.linear_path(layer, module)}.weight",))
        assert self.experts is not None
        path, name = self.experts_path(layer), module.split(".")[1]
        fused = f"{path}.{self.experts.down if name == 'down' else self.experts.gate_up}"
        if fused in stored:
            first_row = {"gate": 0, "up": shape.out_features, "down": 0}[name]
            return WeightSource((fused,), (first_row, first_row + shape.out_features), True)
        projection = self.experts.per_expert[name]
        names = (f"{path}.{expert}.{projection}.weight" for expert in range(shape.slices))
        return WeightSource(tuple(names), None, True)

    def expert_weights(self, experts: Any) -> dict[str, Any]:
        """Gate, up and down ``(E, out, in)`` of a loaded experts module, as views."""
        assert self.experts is not None
        gate, up = getattr(experts, self.experts.gate_up).chunk(2, dim=1)
        down = getattr(experts, self.experts.down)
        return {"experts.gate": gate, "experts.up": up, "experts.down": down}


def _gated(group: str, hidden: int, inner: int, slices: int) -> dict[str, ModuleShape]:
    return {
        f"{group}.gate": ModuleShape(inner, hidden, slices),
        f"{group}.up": ModuleShape(inner, hidden, slices),
        f"{group}.down": ModuleShape(hidden, inner, slices),
    }
