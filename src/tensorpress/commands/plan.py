"""``tensorpress plan``: sizes of recipes on models, of a study, a checkpoint or a config alone."""

from __future__ import annotations

from pathlib import Path

from tensorpress.architectures.families.table import architecture_of
from tensorpress.commands.checkpoints import local_model
from tensorpress.commands.meta_model import MetaModel
from tensorpress.commands.sizing import Size, fitting_sizes, sizes
from tensorpress.config.params import Params
from tensorpress.errors import TensorpressError
from tensorpress.files.numbers import significant, spans
from tensorpress.sources.contents import model_config, read_config
from tensorpress.sources.inputs import ConfigModel, LocalModel
from tensorpress.transforms import registry as transforms

COLUMNS = (
    "model", "recipe", "layers", "stored values", "bits saved %", "of modules %", "of blocks %",
    "without embeddings %", "flops/token", "running GB", "decompose GB", "assemble GB",
)  # fmt: skip


def study_sizes(study: Params) -> list[Size]:
    """Every recipe on every model that it names."""
    found: list[Size] = []
    for name in study.models:
        source_name, source = study.source_of(name)
        weights = Path(source.path) if isinstance(source, LocalModel) else None
        where = f"models.{name}"
        fetched = architecture_of(model_config(source_name, source), where)
        every = study.transforms_of(name)
        made = transforms.planned(every, fetched, where)
        original = MetaModel(name, fetched.config, weights)
        model = MetaModel(name, made.config, weights, original) if every else original
        found += sizes(model, study)
    return found


def has_weights(study: Params) -> bool:
    """Whether the study can run, so that there is something to foresee."""
    return not any(isinstance(spec, ConfigModel) for spec in study.models.values())


def checkpoint_sizes(path: Path, study: Params) -> tuple[list[Size], list[str]]:
    """Recipes of a study on the model of a ``config.json``, its folder, or a GGUF file.

    With them, why others do not fit it.
    """
    if given := local_model(str(path)):
        name, spec = given
        return fitting_sizes(MetaModel(name, model_config(name, spec), Path(spec.path)), study)
    if not path.is_file():
        raise TensorpressError(
            f"plan: {str(path)!r} is neither a file nor a folder; allowed: config.json, its "
            "folder, a GGUF file, or a study (.yaml)"
        )
    name = path.absolute().parent.name if path.name == "config.json" else path.stem
    return fitting_sizes(MetaModel(name, read_config(path, str(path)), path.parent), study)


def rows(found: list[Size]) -> list[tuple[str, ...]]:
    """A line a recipe and set of layers."""
    return [
        (
            size.model,
            size.recipe,
            spans(size.layers),
            *_stored(size),
            f"{size.decompose_peak_bytes / 1e9:.2f}",
            f"{size.assemble_peak_bytes / 1e9:.2f}",
        )
        for size in found
    ]


def _stored(size: Size) -> tuple[str, ...]:
    """What follows from what is stored, as far as it is known before there is advice."""
    if size.advised_saved is not None:
        return ("", f"{100 * size.advised_saved:.2f} or more", "", "", "", "", "")
    saved = size.saved
    more, less = (" or more", " or less") if size.is_largest else ("", "")
    return (
        f"{size.stored_values:,}{less}",
        f"{saved.with_embeddings_percent:.2f}{more}",
        f"{saved.modules_percent:.2f}{more}",
        f"{saved.blocks_percent:.2f}{more}",
        f"{saved.without_embeddings_percent:.2f}{more}",
        f"{size.flops_per_token:.3g}{less}",
        f"{significant(size.peak_bytes / 1e9)}{less}",
    )
