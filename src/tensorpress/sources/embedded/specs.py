"""The embedded models: their ``config.json`` and how they are trained. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from tensorpress.errors import TensorpressError
from tensorpress.errors.refusals import line, listed

UNKEYED = "what a model is and how it is trained is part of its key by value (contents.py)"

VOCABULARY = 2048
NEXT_TOKENS = "tensorpress.sources.embedded.prose:next_tokens"
MASKED_TOKENS = "tensorpress.sources.embedded.prose:masked_tokens"
DIGITS = "tensorpress.sources.embedded.pictures:labels_of_digits"

SCALED = ("hidden_size", "head_dim", "intermediate_size", "moe_intermediate_size")
"""Sizes of ``config.json`` that grow with a model's width; it has as many heads at every one."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@dataclass(frozen=True)
class RouterSpec:
    """Hi-MoE's objective of routers, summed over layers; by default as its code ships it.

    Experts that follow each other are a group. A token should spread over the groups (``inter``)
    and in each prefer one expert (``intra``).
    """

    groups: int = 2
    balance: float = 0.01
    """Of what is, where loads are even, the number of experts of a token in every layer."""
    z: float = 0.001
    intra: float = 0.1
    inter: float = 0.05
    concentration: Literal["of_all", "within_groups"] = "of_all"
    """Of what ``intra`` is the weight. Of a group of mass m whose concentration is s, the published
    terms are ``m^2 (inter - intra s)``: unequal groups are rewarded where s is over a half, which
    is what it aims at. ``within_groups`` takes the mass out of it."""


@dataclass(frozen=True)
class EmbeddedSpec:
    """A model and its training on ``tokens``, of windows as the model reads them.

    The first steps see short windows: what is near is learnt faster without what is far.
    """

    config: dict[str, Any]
    lessons: str
    """``module:function`` that makes what it learns from."""
    tokens: int
    batch_tokens: int
    matrix_rate: float
    """Muon's learning rate: the spectral norm of an update before scaling by shape."""
    window: int = 256
    first_window: int = 32
    first_share: float = 0.5
    other_rate: float = 8e-3
    """AdamW's learning rate, for embeddings, norms and routers."""
    weight_decay: float = 0.1
    warmup_steps: int = 20
    cooldown_share: float = 0.5
    neighbours: bool = False
    """Whether an encoder's heads begin at the tokens beside each."""
    router: RouterSpec | None = None
    """What a mixture's routers learn; ``None``: that all experts get as many tokens."""

    def steps(self, progress: float = 1.0) -> int:
        """Steps of a share of the training."""
        return round(progress * (self.tokens // self.batch_tokens))

    @property
    def width(self) -> int:
        """Hidden size."""
        return int(self.config["hidden_size"])

    @property
    def width_step(self) -> int:
        """Widths are multiples of it: all sizes are whole then, and those of heads even (RoPE)."""
        sizes = [self.config[size] for size in SCALED if size in self.config]
        whole = (self.width // math.gcd(self.width, size) for size in sizes)
        return math.lcm(2 * self.config["num_attention_heads"], *whole)

    def of_width(self, width: int) -> EmbeddedSpec:
        """The same model wider or narrower, in all layers alike, and trained the same way."""
        sizes = {s: self.config[s] * width // self.width for s in SCALED if s in self.config}
        return replace(self, config={**self.config, **sizes})


ALIVE = 0.1
"""Weight of balance that keeps eight experts in use beside ``within_groups``. With the shipped one
three to five of them got less than a tenth of an even share of the tokens."""

_MOE = EmbeddedSpec(
    config={
        **_COMMON,
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_hidden_layers": 4,
        "intermediate_size": 512,
        "moe_intermediate_size": 256,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.0,
    },
    lessons=NEXT_TOKENS,
    tokens=345_000,
    first_share=0.6,
    batch_tokens=2048,
    matrix_rate=0.008,
)

EMBEDDED: dict[str, EmbeddedSpec] = {
    "dense": EmbeddedSpec(
        config={
            **_COMMON,
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": 6,
            "intermediate_size": 512,
        },
        lessons=NEXT_TOKENS,
        tokens=470_000,
        batch_tokens=1024,
        matrix_rate=0.009,
    ),
    "bert": EmbeddedSpec(
        config={
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "vocab_size": VOCABULARY + 3,  # CLS, SEP and the mask
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
        },
        lessons=MASKED_TOKENS,
        tokens=700_000,
        first_share=0.4,
        window=128,
        batch_tokens=1024,
        neighbours=True,
        matrix_rate=0.009,
    ),
    "vit": EmbeddedSpec(
        config={
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "image_size": 8,
            "patch_size": 2,
            "num_channels": 1,
            "num_labels": 10,
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
        },
        lessons=DIGITS,
        tokens=700_000,  # 30 times the images
        first_share=0.2,
        window=17,  # tokens of an image
        batch_tokens=17 * 64,
        matrix_rate=0.009,
    ),
    "moe": _MOE,
    "moe_grouped": replace(_MOE, router=RouterSpec(balance=ALIVE, intra=0.0)),
    "moe_himoe": replace(_MOE, router=RouterSpec(balance=ALIVE, concentration="within_groups")),
    "moe_himoe_published": replace(_MOE, router=RouterSpec()),
}
"""The mixtures differ in what their routers learn, and in nothing else."""


def spec_of(where: str, name: str, width: int | None = None) -> EmbeddedSpec:
    """The embedded model of a name, at a width if one is given.

    ``TensorpressError`` at ``where`` if there is none of that name, or its sizes do not divide.
    """
    if name not in EMBEDDED:
        raise TensorpressError(line(f"{where}.name", name, listed(EMBEDDED)))
    spec = EMBEDDED[name]
    if width is None:
        return spec
    if width % (step := spec.width_step):
        heads = spec.config["num_attention_heads"]
        allowed = f"multiples of {step}, which {heads} heads and the other sizes divide"
        raise TensorpressError(line(f"{where}.width", width, allowed))
    return spec.of_width(width)
