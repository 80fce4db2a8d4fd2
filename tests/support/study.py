"""Rows of a study that was never run, with numbers known beforehand: what reports are made from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from scipy import stats

from support.methods import EXAMPLES, written
from tensorpress.checkpoints.rows import DecompositionRow, JobRow, ResultRow, write_rows
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.registry import spec_class
from tensorpress.planning.compression import Compression, compression
from tensorpress.stages.decomposition import other_settings

BASELINE = 20.0
STDERR = 0.1
WINDOWS = 9
HALF_WIDTH = STDERR * stats.t.ppf(0.975, WINDOWS - 1)
LAYERS = 4
_EMPTY = {str: "", int: 1, float: 1.0, bool: False, tuple[int, ...]: ()}
_VARIANTS = {"whitened": {"whiten": "input"}, "published": {"layout": "published"}}


def method_spec(name: str, **settings: Any) -> MethodSpec:
    """A method's example, or a variant of it: ``svd-whitened``."""
    method, _, variant = name.partition("-")
    given = {**written(EXAMPLES[method]), **_VARIANTS.get(variant, {}), **settings}
    return spec_class(method).model_validate(given)


def result(**fields: Any) -> ResultRow:
    """A row of the results; fields not given are empty, counts one."""
    hints = get_type_hints(ResultRow)
    empty = {name: _EMPTY.get(hint) for name, hint in hints.items()}
    return ResultRow(**{**empty, **asdict(Compression()), **fields})


@dataclass
class Study:
    """A study of one model that grows by runs; ``written`` makes its tables."""

    model: str = "dense"
    results: list[ResultRow] = field(default_factory=list)
    decompositions: list[DecompositionRow] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)

    def add(self, metric: str, value: float, **fields: Any) -> None:
        """One row of the results; fields not given are empty, counts one."""
        given = {"model": self.model, "layer_set": "two", "layers": (1, 2), "layer_count": 2}
        entry = {} if fields.get("recipe") == "baseline" else {"recipe_entry": fields.get("recipe")}
        known = {**given, **entry, **fields}
        self.results.append(result(**known, metric=metric, value=value))

    def baseline(self, **kinds: float) -> None:
        """The uncompressed model's perplexity, and other metrics by kind."""
        none = {"recipe": "baseline", "layers": (), "layer_set": "none", "layer_count": 0}
        for kind, value in {"perplexity": BASELINE, **kinds}.items():
            task = "heldout" if kind == "perplexity" else kind
            self.add(
                "perplexity", value, **none, kind=kind, task=task, protocol="p", stderr=STDERR,
                stderr_samples=WINDOWS, run="baseline", checkpoint_bytes=4_000_000,
                bits_saved_with_embeddings_percent=0.0, bits_saved_modules_percent=0.0,
            )  # fmt: skip

    def run(
        self,
        recipe: str,
        methods: str | Sequence[MethodSpec],
        saved: float,
        nats: float,
        rounding_bits: int | None = None,
        recovered: bool = False,
        **fields: Any,
    ) -> dict[str, Any]:
        """A run that loses ``nats`` per token at ``saved`` percent; returns its fields."""
        specs = [method_spec(methods)] if isinstance(methods, str) else methods
        layers = fields.get("layers", (1, 2))
        common = {
            "recipe": recipe,
            **asdict(compression(specs, rounding_bits, "adapters" if recovered else None)),
            "run": f"{recipe}-L{','.join(map(str, layers))}-{fields.get('seed', '')}",
            "bits_saved_with_embeddings_percent": saved,
            "bits_saved_modules_percent": 2 * saved,
            "layer_count": len(layers),
            **fields,
        }
        measured = {
            "kind": "perplexity", "task": "heldout", "protocol": "p", "stderr": STDERR,
            "stderr_samples": WINDOWS, **common,
        }  # fmt: skip
        self.add("perplexity", BASELINE * math.exp(nats), **measured)
        return common

    def windows(self, recipe: str, methods: str, saved: float, window_nats: Sequence[float],
                **fields: Any) -> None:  # fmt: skip
        """A run whose losses of every window are known, uncompressed or by ``methods``."""
        nats = statistics.fmean(window_nats)
        error = math.exp(nats) * statistics.stdev(window_nats) / math.sqrt(len(window_nats))
        known = {
            "observations": tuple(window_nats), "stderr": error, "stderr_samples": len(window_nats)
        }  # fmt: skip
        self.run(recipe, methods, saved, nats - math.log(BASELINE), **known, **fields)

    def decomposed(self, method_name: str, error: float, layer: int) -> None:
        """Q, K, V and O of a layer, each with the same error, by a method of ``method_spec``."""
        spec = method_spec(method_name)
        for module in ("attention.q", "attention.k", "attention.v", "attention.o"):
            self.decompositions.append(
                DecompositionRow(
                    model=self.model,
                    method_name=method_name,
                    method=spec.method,
                    approach=spec.approach,
                    head_layout=spec.head_layout,
                    settings=other_settings(spec),
                    group="attention",
                    layer=layer,
                    module=module,
                    stack=module,
                    relative_error=error,
                    stack_error=error,
                    lower_bound=None,
                    upper_bound=None,
                    shape_gain=None,
                    dense_values=100,
                    stored_values=50,
                    seconds=1.0,
                )
            )

    def job(self, rule: str, began: float, seconds: float, attempts: int = 1) -> None:
        """A job of this run on one GPU, that began so many seconds after the first."""
        name = f"{self.model}-{len(self.jobs)}"
        self.jobs.append(
            JobRow(
                self.model, rule, rule, name, "this run", "now", attempts, "here", "0", 1, "GPU",
                "2026-01-01T00:00:00+00:00", began, seconds, 100 * seconds,
            )
        )  # fmt: skip

    def written(self, folder: Path) -> dict[str, Path]:
        """The three tables as Parquet, by name."""
        names = ("results", "decompositions", "jobs")
        tables = {name: folder / f"{name}.parquet" for name in names}
        write_rows(self.jobs, JobRow, tables["jobs"])
        write_rows(self.results, ResultRow, tables["results"])
        write_rows(self.decompositions, DecompositionRow, tables["decompositions"])
        return tables


def whole_study(lead: float) -> Study:
    """Every kind of row; at 20 and 30 % the tensor format leads all others by ``lead`` nats."""
    study = Study()
    study.baseline(ngram=60.0)
    for saved in (6.0, 12.0, 22.0, 33.0):
        at = {"layer_set": f"first-{saved:g}", "layers": tuple(range(int(saved) // 6))}
        study.run("svd_whitened", "svd-whitened", saved, 0.01 * saved, **at)
        study.run("svd", "svd", saved, 0.015 * saved, **at)
        study.run("drop", "drop", saved, 0.1 * saved, **at)
        study.run("tt_ffn", "tt", saved, 0.05 * saved if saved < 20 else 0.3 - lead, **at)
        study.run("tucker_ffn", "tucker_ffn", saved, 0.06 * saved, **at)
    study.run("int8", "dense", 35, 0.3, rounding_bits=8)
    study.run("int4", "dense", 65, 0.9, rounding_bits=4)
    study.run("gptq", "gptq", 65, 0.8)
    for layer in range(LAYERS):
        for recipe, methods, nats in (
            ("each_drop", "drop", 0.4),
            ("each_svd_whitened", "svd-whitened", 0.1),
        ):
            at = {"layers": (layer,), "layer_set": "each", "layer_count": 1}
            study.run(recipe, methods, 2, nats / (1 + layer), **at)
    _recovery(study)
    _head_axis(study)
    _costs(study)
    _predictions(study)
    _analyses(study)
    study.job("decompose", 0, 4)
    study.job("evaluate", 5, 8, attempts=2)
    return study


def _recovery(study: Study) -> None:
    for seed, nats in enumerate((0.29, 0.30, 0.31)):
        for recipe, methods, loss, at in (
            ("tt_ffn", "tt", nats, {"layer_set": "first-12", "layers": (0, 1)}),
            ("tucker_ffn", "tucker_ffn", 0.6 + nats, {"layers": (7,)}),
        ):
            study.run(
                f"{recipe}_lora", methods, 11, loss, recovered=True, seed=seed,
                compared_with=recipe, **at,
            )  # fmt: skip


def _head_axis(study: Study) -> None:
    same = {"modules_dense_bits": 4000, "layer_set": "all", "layers": tuple(range(LAYERS))}
    study.run("attention", "tucker_qkvo", 8, 0.35, **same)
    study.run(
        "attention_published", "tucker_qkvo-published", 8, 0.65, compared_with="attention", **same
    )
    study.run("svd_whitened_attention", "svd-whitened", 8, 0.15, **same)
    for layer in range(LAYERS):
        study.decomposed("tucker_qkvo", 0.40 + 0.01 * layer, layer)
        study.decomposed("tucker_qkvo-published", 0.80 + 0.02 * layer, layer)
        study.decomposed("svd-whitened", 0.3 + 0.02 * layer, layer)


def _costs(study: Study) -> None:
    for recipe, methods, saved, bits in (
        ("svd_whitened", "svd-whitened", 22.0, None),
        ("int8", "dense", 35.0, 8),
    ):
        at = {
            "recipe": recipe, **asdict(compression([method_spec(methods)], bits)),
            "bits_saved_with_embeddings_percent": saved,
            "checkpoint_bytes": 3_000_000, "layer_set": "costly", "layers": (0, 1, 2),
        }  # fmt: skip
        for state, factor in (("dense", 1.0), ("compressed", 0.8)):
            for work in ("prefill", "decode"):
                study.add(
                    f"{work}_tokens_per_second", 1000 * factor, state=state, kind="speed",
                    task="speed", version="4 x 256 tokens", **at,
                )  # fmt: skip
            study.add(
                "peak_memory_mib", 600 * factor, state=state, kind="speed", task="speed",
                version="4 x 256 tokens", **at,
            )  # fmt: skip
        for work in ("prefill", "decode"):
            study.add(
                f"{work}_speedup", 0.8, kind="speed", task="speed", version="4 x 256 tokens", **at
            )
        study.add(
            "acc", 0.55, kind="cloze", task="cloze", stderr=0.03, samples=200, version="1", **at
        )


def _predictions(study: Study) -> None:
    """Predicted losses in the order of the measured ones, but not equal to them."""
    measured = [
        row for row in study.results
        if row.kind == "perplexity" and row.methods and row.trained is None
    ]  # fmt: skip
    for row in measured:
        study.add(
            "predicted_damage", math.log(row.value / BASELINE) ** 2, kind="prediction",
            task="prediction", recipe=row.recipe, methods=row.methods, run=row.run,
            layer_set=row.layer_set, layers=row.layers, layer_count=row.layer_count,
        )  # fmt: skip


def _analyses(study: Study) -> None:
    for fields in (*_geometry(), *_heterogeneity(), *_family(), *_experts(), *_super_weights()):
        study.add(**fields)


def _geometry() -> Iterator[dict[str, Any]]:
    run = {"recipe": "tt_ffn", "methods": "tt", "kind": "geometry", "task": "geometry"}
    for layer in range(LAYERS):
        for point in ("layer_input", "attention_output", "ffn_output", "layer_output"):
            for measure in ("cosine", "norm_ratio", "relative_difference"):
                for statistic, value in (("mean", 0.9), ("median", 0.9), ("deviation", 0.05)):
                    at = {"metric": measure, "statistic": statistic, "layer": layer}
                    yield {**at, "value": value, "point": point} | run


def _heterogeneity() -> Iterator[dict[str, Any]]:
    run = {"recipe": "baseline", "kind": "heterogeneity", "task": "mismatch"}
    parts: tuple[dict[str, Any], ...] = (
        {"module": "attention.q", "comparison": "modules", "partner": "attention.k"},
        {"module": "attention.q", "comparison": "heads"},
        {"module": "ffn.up", "comparison": "layers", "next_layer": 1},
    )
    for layer in range(LAYERS):
        for part in parts:
            at = {"layer": layer, **part}
            for side in ("stream", "inner"):
                yield {"metric": f"overlap_{side}", "value": 0.30, **at, **run}
                of_chance = {"state": "random", "value": 0.25}
                yield {"metric": f"overlap_{side}", **of_chance, **at, **run}
            at |= {"values_saved_percent": 50.0, "text": "ranks 2 8 8 of 4 16 16"}
            noise = {"metric": "sharing_penalty", "state": "random", "value": 1.1}
            yield {**noise, **at, **run}
            for metric, value in (
                ("sharing_penalty", 1.2), ("shared_error", 0.6), ("separate_error", 0.5),
                ("hosvd_lower", 0.4), ("hosvd_upper", 0.7),
            ):  # fmt: skip
                yield {"metric": metric, "value": value, **at, **run}
        for metric in ("effective_rank", "stable_rank", "energy_captured", "tail_exponent"):
            at = {"layer": layer, "module": "attention.q", "version": "rank 4"}
            yield {"metric": metric, "value": 3.5, **at, **run}


def _family() -> Iterator[dict[str, Any]]:
    run = {"recipe": "baseline", "kind": "best_of_family", "task": "family"}
    for layer in range(LAYERS):
        at = {"layer": layer, "module": "ffn.up", "values_saved_percent": 50.0, "samples": 100}
        for stored_by, error in (("tt, order 2", 0.4), ("tt, order 3", 0.5)):
            of = {**at, "stored_by": stored_by, **run}
            yield {"metric": "family_error", "value": error, **of}
            yield {"metric": "svd_error", "value": 0.5, **of}
            yield {"metric": "family_bound", "value": error / 1.25, **of}
        spread = {"stderr": 0.001, "stderr_samples": 5, "stored_by": "tt, order 2"}
        yield {"metric": "scrambled_error", "value": 0.8, **at, **spread, **run}


def _experts() -> Iterator[dict[str, Any]]:
    run = {"recipe": "td_moe", "methods": "td_moe", "kind": "moe", "task": "experts"}
    projections = ("experts.gate", "experts.up", "experts.down")
    routed = ("router.weights", "router.activations")
    for layer in range(LAYERS):
        for band in ("head", "tail"):
            for what, parts in (("overlap", projections), ("alignment", routed)):
                for part in parts:
                    for state in ("dense", "compressed", "random"):
                        at = {"layer": layer, "module": part, "state": state}
                        yield {"metric": f"{band}_{what}", "value": 0.3, **at, **run}
        for part in projections:
            for expert in range(3):
                at = {"layer": layer, "module": part, "expert": expert}
                yield {"metric": "drift", "value": 0.2 + 0.1 * expert, **at, **run}
        for metric in (
            "jaccard", "exact_agreement", "jsd_nats", "entropy_change_nats", "assignment_kl_nats",
        ):  # fmt: skip
            yield {"metric": metric, "value": 0.5, "layer": layer, "module": "router", **run}
        for state, idle in (("dense", ""), ("compressed", "4, 7-9")):
            at = {"layer": layer, "module": "router", "state": state}
            yield {"metric": "entropy_nats", "value": 0.5, **at, **run}
            yield {
                "metric": "experts_without_tokens", "value": 4.0 * bool(idle), "samples": 512,
                "text": idle, **at, **run,
            }  # fmt: skip


def _super_weights() -> Iterator[dict[str, Any]]:
    found = {"recipe": "baseline", "kind": "super_weights", "task": "super_weights"}
    yield {"metric": "super_weights", "value": 1, "text": "One was found.", "version": "v", **found}
    weight = {"layer": 1, "module": "ffn.down", "row": 7, "column": 30, **found}
    for metric, value in (
        ("super_weight", 2.0), ("super_weight_input", 80.0), ("super_weight_output", 90.0)
    ):  # fmt: skip
        yield {"metric": metric, "value": value, **weight}
    for layer in range(LAYERS):
        for metric, value in (("largest_weight", 1.0), ("input_peak", 9.0), ("output_peak", 8.0)):
            yield {"metric": metric, "value": value, **weight, "layer": layer}
    for metric in ("block_maximum", "magnitude"):
        for row in range(8):
            for column in range(8):
                at = {"layer": 1, "module": "ffn.down", "row": row, "column": column}
                yield {"metric": metric, "value": float(row + column), **found, **at}
    for rank, recipe in ((1, "tt_8"), (2, "tt_16")):
        run = {
            "recipe": recipe, "methods": "tt", "kind": "restoration", "task": "restoration",
            "layer": 1, "module": "ffn.down", "stored_by": "tt", "approach": "tensor format",
        }  # fmt: skip
        yield {"metric": "stored_share", "value": 0.2 * rank, **run}
        for entries in ("super_weights", "next_64", "random_64"):
            for metric in ("absolute_error", "relative_error"):
                at = {"entries": entries, "samples": 64}
                yield {"metric": metric, "value": 0.5 / rank, **at, **run}
