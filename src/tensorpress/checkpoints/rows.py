"""Row types of every Parquet file; the schemas come from the types, units are in the names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from tensorpress.errors import DamagedFile
from tensorpress.files.atomic import replacing
from tensorpress.files.storage import BitsSaved
from tensorpress.planning.compression import Compression
from tensorpress.sources.quantised import Origin


@dataclass(frozen=True, kw_only=True)
class DecompositionRow:
    """One module of one layer after one decomposition.

    Errors are relative Frobenius norms; bounds belong to the stack of modules that share
    factors, and so do ``stack_error`` and ``stored_values`` (given once, with the first module).
    ``approach`` and ``head_layout`` are as in ``Compression``; ``settings`` are the method's other
    settings as JSON: rows of equal ones differ in the layout alone.
    ``product_error``: of the outputs of modules that change together, relative, on the inputs of
    calibration; the errors of each alone mean little then.
    ``calibration_tokens``: over which moments were really taken, where the method read them.
    """

    model: str
    method_name: str
    method: str
    approach: str
    head_layout: str | None
    settings: str
    group: str
    layer: int
    module: str
    stack: str
    relative_error: float
    stack_error: float
    lower_bound: float | None
    upper_bound: float | None
    shape_gain: float | None
    product_error: float | None = None
    dense_values: int
    stored_values: int
    seconds: float
    calibration_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class StorageRow:
    """Bits of one run; each saving is ``100 * (1 - stored / dense)`` over its denominator.

    ``source_bits`` and ``source_quantisation`` are of the files that the model comes from
    (``Origin``); the second is empty where these hold plain numbers.
    """

    source_bits: int
    source_quantisation: str | None
    dense_bits: int
    stored_bits: int
    modules_dense_bits: int
    modules_stored_bits: int
    blocks_dense_bits: int
    blocks_stored_bits: int
    without_embeddings_dense_bits: int
    without_embeddings_stored_bits: int
    checkpoint_bytes: int
    bits_saved_modules_percent: float
    bits_saved_blocks_percent: float
    bits_saved_without_embeddings_percent: float
    bits_saved_with_embeddings_percent: float

    @classmethod
    def of(cls, saved: BitsSaved, checkpoint_bytes: int, origin: Origin) -> StorageRow:
        """The row of a checkpoint of so many bytes, of a model of that ``origin``."""
        return cls(
            source_bits=origin.bits,
            source_quantisation=origin.quantisation,
            **dataclasses.asdict(saved),
            checkpoint_bytes=checkpoint_bytes,
            bits_saved_modules_percent=saved.modules_percent,
            bits_saved_blocks_percent=saved.blocks_percent,
            bits_saved_without_embeddings_percent=saved.without_embeddings_percent,
            bits_saved_with_embeddings_percent=saved.with_embeddings_percent,
        )

    @property
    def origin(self) -> Origin:
        """What the model's weights were in the files that it comes from."""
        return Origin(self.source_bits, self.source_quantisation)

    @property
    def saved(self) -> BitsSaved:
        """The bits alone."""
        names = (field.name for field in dataclasses.fields(BitsSaved))
        return BitsSaved(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class EvalRow:
    """One metric of one task on one run; what does not apply is empty.

    ``version`` states protocol or harness version in words, ``protocol`` is the hash of all that
    decides the number but the model. ``stderr`` was estimated from ``stderr_samples`` values that
    are taken for independent, windows or items; of one there is none. No text is to be read back
    but by people: each fact has a column of its own.
    """

    metric: str
    value: float
    statistic: str | None = None
    """Of many values: ``mean``, ``median``, ``deviation``, ``max``."""
    state: str | None = None
    """Of what, where two models meet or chance stands beside: dense, compressed, random."""
    stderr: float | None = None
    stderr_samples: int | None = None
    samples: int | None = None
    observations: tuple[float, ...] | None = None
    """What the value is made of, in the order of the text: of a perplexity the mean nats of each
    window, of another metric what each item says, of which the value is the mean."""
    version: str = ""
    protocol: str = ""
    layer: int | None = None
    next_layer: int | None = None
    """The other of two layers that are compared."""
    module: str | None = None
    partner: str | None = None
    """Modules that the module is compared or stacked with, joined by ``~``."""
    comparison: str | None = None
    """What is compared: ``modules`` of a layer; of a module, ``heads``, ``experts``, ``layers``."""
    expert: int | None = None
    row: int | None = None
    column: int | None = None
    """With ``row``, an entry of the module's matrix; of a block, its first."""
    entries: str | None = None
    """Which entries of the module: ``super_weights``, ``next_64``, ``random_64``."""
    point: str | None = None
    """Point of the layer, or delta between two, by ``analysis.geometry``."""
    values_saved_percent: float | None = None
    """Budget of a decomposition made to measure."""
    stored_by: str | None = None
    """Method with settings that stores the module."""
    prompt: str | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """Which recipe on which model and layers, by the names in ``params.yaml``.

    ``layers`` are those compressed, none for the baseline, whose recipe is ``baseline``. A model
    ``derived`` of another one of the study is a way to compress that one, which is ``model``, and
    ``recipe`` begins with its name; ``recipe_entry`` is the entry of ``recipes``, if there is one.
    ``compared_with``: another recipe that this one varies. ``seed`` is given where
    chance entered. ``run`` is the checkpoint's folder within ``results``.
    """

    model: str
    derived: str | None
    recipe: str
    recipe_entry: str | None
    compared_with: str | None
    layer_set: str
    layers: tuple[int, ...]
    layer_count: int
    seed: int | None
    run: str


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """What a model is, whatever is done to it; ``value_bits`` are of a stored value of it.

    ``trained_as`` and what follows it are of a model that the fetch trains: its name among the
    embedded ones, seed, tokens, and the share of its training that these are. Of equal seeds,
    models see the same text in the same order.
    """

    objective: str
    hidden_size: int
    value_bits: int
    trained_as: str | None = None
    training_seed: int | None = None
    training_tokens: int | None = None
    training_progress: float | None = None


@dataclass(frozen=True, kw_only=True)
class ResultRow(EvalRow, StorageRow, Compression, ModelRow, RecipeRow):
    """One metric of one recipe on one model and layer set, with what was done and what it costs.

    ``task`` is the name in ``params.yaml``, ``kind`` the kind of the task.
    """

    task: str
    kind: str


@dataclass(frozen=True)
class JobRow:
    """One job behind the other tables, and what it cost where it left a record.

    ``made`` says when: in ``this run`` of a driver, the one that wrote the table, in an
    ``earlier run``, or ``elsewhere``, of which nothing is known. ``attempts`` counts those since it
    last succeeded; ``driver`` names the run. ``devices`` are comma-separated ids, ``gpus`` is how
    many of them are no CPU. ``started_seconds`` are since the first job of its run that is in the
    table. ``name`` is that of the log.
    """

    model: str
    stage: str
    rule: str
    name: str
    made: str
    driver: str | None = None
    attempts: int | None = None
    host: str | None = None
    devices: str | None = None
    gpus: int | None = None
    gpu: str | None = None
    started: str | None = None
    started_seconds: float | None = None
    wall_seconds: float | None = None
    peak_rss_mb: float | None = None


Row = TypeVar("Row")

_ARROW = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    tuple[int, ...]: pa.list_(pa.int64()),
    tuple[float, ...]: pa.list_(pa.float64()),
}


def schema(row_type: type) -> pa.Schema:
    """Arrow schema of a row type."""
    hints = get_type_hints(row_type)
    return pa.schema([_field(f.name, hints[f.name]) for f in dataclasses.fields(row_type)])


def write_rows(rows: Iterable[Row], row_type: type[Row], path: Path) -> None:
    """Write rows as Parquet with the schema of their type."""
    columns = [dataclasses.asdict(row) for row in rows]  # type: ignore[call-overload]
    table = pa.Table.from_pylist(columns, schema=schema(row_type))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_rows(paths: Sequence[Path], row_type: type[Row]) -> list[Row]:
    """Rows of the listed files; ``DamagedFile`` if one is not what ``write_rows`` wrote."""
    return [row_type(**record) for path in paths for record in _records(path)]


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(path, page_checksum_verification=True).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFile(path, error) from error


def _field(name: str, hint: Any) -> pa.Field:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    value = next(kind for kind in kinds if kind is not NoneType)
    return pa.field(name, _ARROW[value], nullable=NoneType in kinds)
