"""What ``decompose`` of a method file gives back, and what it reads weights by. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tensorpress.architectures.layers import LayerShape, group_of
from tensorpress.architectures.sites import gradient_of
from tensorpress.files.storage import stored_tensors
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format


@dataclass(frozen=True)
class Factors:
    """One factor set and the modules whose weights it represents.

    The slices of ``store`` are those of the modules in turn (``slices_of``).
    Bounds are of the joint relative Frobenius error, ``None`` where the method has none.
    """

    modules: tuple[str, ...]
    store: Format
    lower_bound: float | None = None
    upper_bound: float | None = None
    shape_gain: float | None = None
    """Where a mode shape was searched: its error over that of the study's at the same size, or its
    values over those of the study's at the same error."""

    product_error: float | None = None
    """Relative error of the group's outputs on the calibration's inputs, where modules change
    together, so that the error of each alone means little."""

    turns: Mapping[str, Tensor] = field(default_factory=dict)
    """By module whose outputs are in another basis ``(heads, rank, width)``: what turns them, and
    so its bias, head by head; the rest of a head's outputs is zero."""

    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    """Squared singular values by the name of the rank that truncates them, of nested methods."""

    @property
    def stored_values(self) -> int:
        """Values of all factors, packed ones included."""
        return sum(t.numel for t in stored_tensors(self.store, None, replaced=True).values())


def slices_of(store: Format, modules: Sequence[str], index: int) -> range:
    """The slices that are module ``index`` of those that share a store: as many for each."""
    each = store.slices // len(modules)
    return range(index * each, (index + 1) * each)


def bounded(
    modules: tuple[str, ...], store: Format, spectra: Mapping[str, Tensor], spec: MethodSpec
) -> Factors:
    """Factors with the bounds of the plain spectra; whitened ones only have the lower one."""
    from tensorpress.linalg.bounds import of_spectra

    lower, upper = of_spectra(spectra, store.settings)
    upper_bound = None if spec.needs_moments else upper
    return Factors(modules, store, lower, upper_bound, spectra=spectra)


def output_gradients(
    moments: Mapping[str, Tensor] | None, module: str, spec: MethodSpec
) -> Tensor | None:
    """Squared gradients ``(S, out)`` of a module's outputs, where errors are weighed by them."""
    if moments is None or not spec.needs_gradients:
        return None
    found = moments[gradient_of(module)]
    return found if found.ndim == 2 else found[None]


def stacked(matrices: Tensor) -> Tensor:
    """A weight or a moment as a stack ``(S, ., .)``: S = 1 unless experts."""
    return matrices if matrices.ndim == 3 else matrices[None]


def dense_store(weight: Tensor) -> Format:
    """A weight, or a stack of experts' weights, as the format that holds it as it is."""
    from tensorpress.formats.dense import DenseSlices

    stack = stacked(weight)
    slices, out_features, in_features = stack.shape
    store = DenseSlices(slices=slices, out_features=out_features, in_features=in_features)
    return store.fill(weight=stack)


def group_of_weights(weights: Mapping[str, Tensor]) -> str:
    """The group that the weights of one job belong to."""
    return group_of(next(iter(weights)))


def by_layout(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    largest: MethodSpec,
    started: Callable[[Layout, list[Tensor]], Callable[[Layout], Factors]],
) -> Callable[[MethodSpec], list[Factors]]:
    """What makes the factors of any size up to the ``largest``.

    ``started`` takes the largest layout of a factor set and the weights of its modules
    ``(S, out, in)``, and gives what makes the set of a smaller layout.
    """
    fits = [started(*each) for each in with_layouts(weights, layer, largest)]
    group = group_of_weights(weights)

    def fit(spec: MethodSpec) -> list[Factors]:
        layouts = spec.layouts(layer, group)
        return [fit(layout) for fit, layout in zip(fits, layouts, strict=True)]

    return fit


def with_layouts(
    weights: Mapping[str, Tensor], layer: LayerShape, spec: MethodSpec
) -> Iterator[tuple[Layout, list[Tensor]]]:
    """Each layout of the job with the weights of its modules, as stacks ``(S, out, in)``."""
    for layout in spec.layouts(layer, group_of_weights(weights)):
        yield layout, [stacked(weights[module]) for module in layout.modules]
