"""What a family file states: where a Hugging Face model keeps the weights of each module.

Torch-free: planning reads shapes from a ``config.json`` alone. Tensors are handled by their own
methods, so that reading a checkpoint and reading a loaded model share one description.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tensorpress.architectures.layers import LayerShape, ModuleShape, group_of
from tensorpress.errors import TensorpressError

Config = Mapping[str, Any]

CONFIG_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "inner": "intermediate_size",
    "experts": "num_experts",
    "expert_inner": "moe_intermediate_size",
    "top_k": "num_experts_per_tok",
    "positions": "max_position_embeddings",
}
"""What a size is called in most configs; a family lists the names of its own that differ."""


@dataclass(frozen=True)
class Slot:
    """Where a module's matrix stands: a linear layer's path within the layer, or a part of one.

    The outputs of a fused linear layer lie in ``groups``, one after the other; each holds outputs
    of every matrix in turn, ``shares`` of them (GPT-NeoX has a group a head, Phi-3 one with more
    of q than of k and v). ``transposed``: stored as ``(in, out)``.
    """

    path: str
    part: int = 0
    shares: tuple[int, ...] = (1,)
    groups: int | Literal["heads"] = 1
    transposed: bool = False

    def group_count(self, heads: int) -> int:
        """Groups that the outputs lie in, of a layer with so many heads."""
        return heads if self.groups == "heads" else self.groups

    def take(self, weight: Any, heads: int) -> Any:
        """The module's matrix ``(out, in)`` out of the stored tensor."""
        matrix = weight.mT if self.transposed else weight
        if len(self.shares) == 1:
            return matrix
        grouped = matrix.unflatten(0, (self.group_count(heads), -1))
        unit = grouped.shape[1] // sum(self.shares)
        start, count = unit * sum(self.shares[: self.part]), unit * self.shares[self.part]
        return grouped[:, start : start + count].flatten(0, 1)

    def outputs(self, y: Any, heads: int) -> Any:
        """The module's share ``(tokens, out)`` of the layer's outputs ``(tokens, all out)``."""
        # outputs lie as the columns of a weight (in, out) do
        return self.take(y if self.transposed else y.mT, heads).mT


@dataclass(frozen=True)
class Experts:
    """Names and layout of the fused experts module of a layer.

    On disk a checkpoint holds either one tensor per expert (``per_expert``, the hub's form) or
    the fused ones that transformers 5 runs: gate and up together ``(E, 2 * inner, hidden)``, one
    after the other or ``interleaved``, and down ``(E, hidden, inner)``; ``transposed`` swaps the
    last two sides of both. ``biases``: each has one, named with ``_bias``. ``clamp`` holds the
    config keys and defaults of alpha and limit of GPT-OSS's clamped gate. ``in_turn``: called with
    all tokens for one expert after the other, zeros where it is not chosen (Llama 4).
    """

    module: str
    per_expert: Mapping[str, str]
    stored_module: str | None = None
    interleaved: bool = False
    transposed: bool = False
    biases: bool = False
    clamp: tuple[tuple[str, float], ...] = ()
    in_turn: bool = False
    gate_up: str = "gate_up_proj"
    down: str = "down_proj"

    def split(self, gate_up: Any) -> tuple[Any, Any]:
        """Gate and up ``(E, inner, hidden)`` out of the fused tensor."""
        stack = gate_up.mT if self.transposed else gate_up
        return (stack[:, ::2], stack[:, 1::2]) if self.interleaved else stack.chunk(2, dim=1)

    def limits(self, config: Config) -> list[float]:
        """Alpha and limit of the clamped gate, nothing where the gate is a plain one."""
        return [float(config.get(key, default)) for key, default in self.clamp]


@dataclass(frozen=True)
class Norm:
    """A norm of a layer whose outputs nothing but matrices read; paths are within the layer.

    ``readers``: modules, those that a layer has. ``beside_experts``: linear layers that read it
    too where a layer has experts, routers and shared experts.
    """

    path: str
    readers: tuple[str, ...]
    beside_experts: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightSource:
    """Tensors of a checkpoint that hold a module's weight, and how to take it out of them."""

    names: tuple[str, ...]
    take: Callable[[list[Any]], Any]


def no_layer(config: Config, layer: int) -> bool:
    """``has_experts`` of a family without; a function with a name can be sent to a job."""
    return False


def every_layer(config: Config, layer: int) -> bool:
    """``has_experts`` where all layers have some."""
    return True


def any_config(config: Config) -> bool:
    """``norms_first`` where it depends on nothing."""
    return True


@dataclass(frozen=True)
class Family:
    """Names and shapes of one ``model_type``; layer-relative names are joined to ``layer``."""

    model_type: str
    linears: Mapping[str, Slot]
    layer: str = "model.layers.{layer}"
    embedding: str | None = "model.embed_tokens"
    """The table of tokens; of models that read none, as those of images, there is none."""
    head: str | None = "lm_head"
    """Output layer of the running model, if it has one."""
    experts: Experts | None = None
    has_experts: Callable[[Config, int], bool] = no_layer
    """Whether a layer routes its tokens to experts in place of one FFN."""
    keys: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    """Parts of names in the hub's checkpoints -> parts of names in the running model."""
    attention_norm: str | None = None
    """Module of a layer between the attention and the residual stream that it is added to."""
    norms: tuple[Norm, ...] = ()
    """Norms of every layer that only matrices read; none where the residual stream does too."""
    norms_first: Callable[[Config], bool] = any_config
    """Whether ``norms`` stand where these facts say, by the config."""
    norms_have_biases: bool = False
    without_bias: tuple[str, ...] = ()
    """Modules whose linear layers have no bias, where norms have."""
    norm_unit: float = 1.0
    """The stored weight with which a norm scales by one."""
    writers_beside_experts: tuple[str, ...] = ()
    """Linear layers that write into the residual stream beside experts: of shared ones."""
    narrows: bool = False
    """Whether its class takes another ``hidden_size`` beside the same heads (``head_dim``)."""
    final_norm: str = "model.norm"
    """The norm that only the head reads."""
    objective: str = "causal_lm"
    """What its models are asked (``objectives.registry``)."""
    head_bias: str | None = None
    """Tensor that transformers ties to the head's bias where the head is tied to the embedding."""
    left_out: tuple[str, ...] = ()
    """Modules that its checkpoints may hold beside what the objective's class runs."""
    first_position: int = 0
    """Of those that its configs count, the position of a text's first token."""
    classes: Mapping[str, Family] = field(default_factory=dict)
    """What a checkpoint is instead whose config names a class: one without a head."""

    @property
    def code(self) -> str:
        """What keys follow of it (``keying.fingerprints``)."""
        return f"tensorpress.architectures.families.{self.model_type}:FAMILY"

    @property
    def knows_stream(self) -> bool:
        """Whether it says what attention adds to the residual stream (``attention_norm``)."""
        return True

    def values(self) -> int | None:
        """Values of a whole model with a head of its own, where they were counted."""
        return None

    def slot(self, module: str) -> Slot:
        """Where the matrix of a module stands, experts aside."""
        return self.linears[module] if module in self.linears else Slot(self._table())

    @property
    def table(self) -> str | None:
        """Tensor of the table of tokens, if there is one."""
        return None if self.embedding is None else f"{self.embedding}.weight"

    def _table(self) -> str:
        if self.embedding is None:
            raise TensorpressError(f"model_type {self.model_type} has no table of tokens")
        return self.embedding

    def key(self, what: str) -> str:
        """What this family's configs call a size (``CONFIG_KEYS``)."""
        return self.keys.get(what, CONFIG_KEYS[what])

    def size(self, config: Config, what: str) -> int | None:
        """A size of the model by its canonical name (``CONFIG_KEYS``), ``None`` if not given."""
        value = config.get(self.key(what))
        if value is None:
            return None
        return int(value) - (self.first_position if what == "positions" else 0)

    def _known(self, config: Config, what: str) -> int:
        value = self.size(config, what)
        if value is None:
            raise TensorpressError(f"config.json: {self.key(what)} is missing")
        return value

    def layer_count(self, config: Config) -> int:
        """Number of transformer layers."""
        return self._known(config, "layers")

    def layer_path(self, layer: int) -> str:
        """Module path of a layer: ``model.layers.3``."""
        return self.layer.format(layer=layer)

    def layer_of(self, tensor: str) -> int | None:
        """The layer that a tensor belongs to by its name, ``None`` outside of the layers."""
        prefix = self.layer.split("{layer}")[0]
        number = tensor.removeprefix(prefix).split(".")[0]
        return int(number) if tensor.startswith(prefix) and number.isdigit() else None

    def linear_path(self, layer: int, module: str) -> str:
        """Module path of the linear layer (or the embedding) that holds ``module``."""
        if module == "embedding":
            return self._table()
        return f"{self.layer_path(layer)}.{self.linears[module].path}"

    def block_path(self, layer: int, group: str) -> str:
        """Module path of a layer's attention, FFN or experts: what holds the last matrix of it.

        A matrix that stands in the layer itself (OPT's FFN) is its own block.
        """
        if group == "experts":
            path = self.experts_path(layer)
        else:
            path = self.linear_path(layer, {"attention": "attention.o", "ffn": "ffn.down"}[group])
        parent = path.rpartition(".")[0]
        return path if parent == self.layer_path(layer) else parent

    def is_transposed(self, path: str) -> bool:
        """Whether the linear layer at a module path holds its weight as ``(in, out)``."""
        return any(s.transposed for s in self.linears.values() if path.endswith(f".{s.path}"))

    def holds_inputs_first(self, module: str) -> bool:
        """Whether the stored tensors of a module's weight are ``(in, out)``."""
        if group_of(module) == "experts":
            return self.experts is not None and self.experts.transposed
        return self.linears[module].transposed

    def experts_path(self, layer: int) -> str:
        """Module path of a layer's experts.

        ``TensorpressError`` for a family without experts.
        """
        if self.experts is None:
            raise TensorpressError(f"model_type {self.model_type} has no experts")
        return f"{self.layer_path(layer)}.{self.experts.module}"

    def leaves_out(self, stored: str) -> bool:
        """Whether a tensor of a checkpoint is of no use to the objective's class."""
        return any(stored.startswith(f"{module}.") for module in self.left_out)

    def running_name(self, stored: str) -> str:
        """Name in the running model of a tensor of a checkpoint."""
        for old, new in self.renames.items():
            stored = stored.replace(old, new)
        return stored

    def layer_shape(self, config: Config, layer: int) -> LayerShape:
        """Shapes of every module of ``layer``, from the config alone.

        The number after the last layer stands for the outer layer, which has the embedding, if
        there is one.
        """
        hidden, heads = self._known(config, "hidden"), self._known(config, "heads")
        kv_heads = self.size(config, "kv_heads") or heads
        head_dim = self.size(config, "head_dim") or hidden // heads
        if layer == self.layer_count(config):
            table = {}
            if self.embedding is not None:
                table["embedding"] = ModuleShape(int(config["vocab_size"]), hidden)
            return LayerShape(hidden, heads, kv_heads, head_dim, table, layer)
        shapes = {
            "attention.q": ModuleShape(heads * head_dim, hidden),
            "attention.k": ModuleShape(kv_heads * head_dim, hidden),
            "attention.v": ModuleShape(kv_heads * head_dim, hidden),
            "attention.o": ModuleShape(hidden, heads * head_dim),
        }
        if self.has_experts(config, layer):
            # hub configs say num_experts, those that transformers 5 saves num_local_experts
            slices = self.size(config, "experts") or int(config["num_local_experts"])
            inner = self._known(config, "expert_inner")
            shapes |= _ffn("experts", hidden, inner, slices)
        else:
            shapes |= _ffn("ffn", hidden, self.size(config, "inner") or 4 * hidden, 1)
        present = {
            module: shape
            for module, shape in shapes.items()
            if module in self.linears or group_of(module) == "experts"
        }
        return LayerShape(hidden, heads, kv_heads, head_dim, present, layer)

    def weight_source(
        self, layer: int, module: str, shape: LayerShape, stored: Container[str]
    ) -> WeightSource:
        """Which tensors of a checkpoint (``stored`` names) hold the weight of ``module``."""
        if group_of(module) != "experts":
            slot = self.slot(module)
            name = f"{self.linear_path(layer, module)}.weight"
            return WeightSource((name,), lambda tensors: slot.take(tensors[0], shape.heads))
        assert self.experts is not None
        experts, projection = self.experts, module.split(".")[1]
        fused = f"{self.experts_path(layer)}."
        fused += experts.down if projection == "down" else experts.gate_up
        if fused in stored:
            return WeightSource(
                (fused,), lambda tensors: _of_fused(experts, projection, tensors[0])
            )
        path = f"{self.layer_path(layer)}.{experts.stored_module or experts.module}"
        part = experts.per_expert[projection]
        slices = range(shape.modules[module].slices)
        return WeightSource(tuple(f"{path}.{e}.{part}.weight" for e in slices), _stack)

    def expert_weights(self, experts: Any) -> dict[str, Any]:
        """Gate, up and down ``(E, out, in)`` of a loaded experts module, as views."""
        assert self.experts is not None
        gate_up, down = getattr(experts, self.experts.gate_up), getattr(experts, self.experts.down)
        return {
            "experts.gate": _of_fused(self.experts, "gate", gate_up),
            "experts.up": _of_fused(self.experts, "up", gate_up),
            "experts.down": _of_fused(self.experts, "down", down),
        }


def slots(paths: Mapping[str, str], **layout: Any) -> dict[str, Slot]:
    """One slot per module, all of the same layout."""
    return {module: Slot(path, **layout) for module, path in paths.items()}


def _of_fused(experts: Experts, projection: str, fused: Any) -> Any:
    if projection == "down":
        return fused.mT if experts.transposed else fused
    gate, up = experts.split(fused)
    return gate if projection == "gate" else up


def _stack(tensors: list[Any]) -> Any:
    import torch

    return torch.stack(tensors)


def _ffn(group: str, hidden: int, inner: int, slices: int) -> dict[str, ModuleShape]:
    return {
        f"{group}.gate": ModuleShape(inner, hidden, slices),
        f"{group}.up": ModuleShape(inner, hidden, slices),
        f"{group}.down": ModuleShape(hidden, inner, slices),
    }
