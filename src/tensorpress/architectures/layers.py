"""Canonical names: every weight matrix of a model is (layer, module), modules form groups.

A *module* is ``attention.q`` or ``experts.up``; its weight is one matrix ``(out, in)``, or, for
experts, a stack of them ``(E, out, in)``. The input embedding is a module of the *outer layer*,
whose number is one past the last layer. Hugging Face's names appear only in ``families/``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

GROUPS: dict[str, tuple[str, ...]] = {
    "attention": (
        "attention.q", "attention.k", "attention.v", "attention.o",
        # of low-rank attention (DeepSeek-V2), in place of q, k and v
        "attention.q_down", "attention.q_up", "attention.kv_down", "attention.kv_up",
    ),
    "ffn": ("ffn.gate", "ffn.up", "ffn.down"),
    "experts": ("experts.gate", "experts.up", "experts.down"),
    "embedding": ("embedding",),
}  # fmt: skip
MODULES: tuple[str, ...] = tuple(module for group in GROUPS.values() for module in group)


@dataclass(frozen=True)
class ModuleShape:
    """Shape of one module's weight: ``slices`` matrices of ``(out, in)``; 1 unless experts."""

    out_features: int
    in_features: int
    slices: int = 1

    @property
    def numel(self) -> int:
        """Number of weights of all slices."""
        return self.slices * self.out_features * self.in_features

    @property
    def moment_numel(self) -> int:
        """Values of the second moments of the inputs of all slices."""
        return self.slices * self.in_features**2


@dataclass(frozen=True)
class LayerShape:
    """What a method may know of a transformer layer before it sees a weight."""

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    modules: dict[str, ModuleShape]
    number: int = field(default=-1, repr=False, compare=False)
    """Which layer it is; layers that differ in nothing else are equal."""

    @property
    def experts(self) -> int:
        """Number of experts, 0 in a layer without."""
        up = self.modules.get("experts.up")
        return up.slices if up else 0

    @property
    def in_heads(self) -> bool:
        """Whether attention's matrices are heads of equal size, side by side, and nothing else."""
        sides = {
            "attention.q": (self.heads, "out_features"),
            "attention.k": (self.kv_heads, "out_features"),
            "attention.v": (self.kv_heads, "out_features"),
            "attention.o": (self.heads, "in_features"),
        }
        for module, shape in self.group("attention").items():
            heads, side = sides.get(module, (0, "out_features"))
            if getattr(shape, side) != heads * self.head_dim:
                return False
        return True

    def group(self, group: str) -> dict[str, ModuleShape]:
        """The modules of ``group`` that this layer has, in canonical order."""
        return {m: self.modules[m] for m in GROUPS[group] if m in self.modules}


def group_of(module: str) -> str:
    """The group that ``module`` belongs to: ``attention.q`` -> ``attention``."""
    return module.split(".")[0]


def modules_of(shapes: Iterable[LayerShape]) -> tuple[str, ...]:
    """Modules that at least one of the layers has."""
    return tuple({module: None for shape in shapes for module in shape.modules})


def expand_modules(names: Iterable[str], available: Iterable[str]) -> tuple[str, ...]:
    """Module names of ``all``, group names and single names, in canonical order.

    ``all`` means every module of ``available`` but the embedding; an explicit name that is not
    available is kept, so that the caller can say that the model lacks it.
    """
    wanted: set[str] = set()
    for name in names:
        inner = (module for module in available if module != "embedding")
        wanted.update(inner if name == "all" else GROUPS.get(name, (name,)))
    return tuple(module for module in MODULES if module in wanted)


def middle(layers: int, count: int) -> tuple[int, ...]:
    """``count`` layers from ``layers // 2`` to the right (the study's dense layer sets)."""
    start = layers // 2
    return tuple(range(start, start + count))


def middle_out(layers: int, count: int) -> tuple[int, ...]:
    """``count`` layers from ``layers // 2``: the first quarter to the right, then alternating.

    The study's layer sets for mixture models: right until a quarter of the layers, then left
    and right in turn, left first.
    """
    left = right = layers // 2
    chosen = [left]
    while len(chosen) < count:
        go_right = len(chosen) < layers // 4 or (len(chosen) - layers // 4) % 2 == 1
        if (go_right and right + 1 < layers) or left == 0:
            right += 1
            chosen.append(right)
        else:
            left -= 1
            chosen.append(left)
    return tuple(sorted(chosen))
