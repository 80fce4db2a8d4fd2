"""Every path of the project, relative to its root (the working directory of Snakemake and DVC)."""

from pathlib import Path

from tensorpress.errors import TensorpressError

PARAMS = Path("params.yaml")

RESULTS = Path("results")
ATTIC = RESULTS / ".attic"
PLAN = RESULTS / "plan"
LOGS = RESULTS / "logs"
RECORDS = RESULTS / "records"
METRICS = RESULTS / "metrics.json"
PLOTS = RESULTS / "plots"

TENSORS, ROWS = ".safetensors", ".parquet"

STAGES = (
    "fetch",
    "transform",
    "calibrate",
    "advise",
    "decompose",
    "assemble",
    "recover",
    "evaluate",
    "aggregate",
    "reports",
    "site",
)
"""Keyed stages in the order of the pipeline; each is a folder of ``results`` and a DVC stage."""


_PARTS = ("Snakefile", "rules", "queries", "notebooks")
"""What makes a folder a project's."""


def project() -> Path:
    """Folder of the Snakefile and all that belongs to it.

    The working directory where that is one, else the checkout that the package lies in, or what an
    installed package brought along. ``TensorpressError`` where it brought none.
    """
    package = Path(__file__).parents[1]
    for folder in (Path(), package.parents[1], package / "workflow"):
        if all((folder / part).exists() for part in _PARTS):
            return folder
    raise TensorpressError(
        f"{package}: a package without its workflow is not allowed; allowed: one of 'pip install' "
        f"on a checkout or a wheel, which has {', '.join(_PARTS)}"
    )


def queries() -> Path:
    """Folder of the project's queries."""
    return project() / "queries"


def notebooks() -> Path:
    """Folder of the notebooks that reports are made from."""
    return project() / "notebooks"


def stage(name: str) -> Path:
    """Folder of a stage's artifacts."""
    return RESULTS / name


def plan_file(name: str) -> Path:
    """The live keys of a stage, which its DVC stage depends on."""
    return PLAN / f"{name}.json"


def model(identity: str) -> Path:
    """A fetched model: config, safetensors, tokenizer."""
    return stage("fetch") / identity


def transformed(identity: str) -> Path:
    """A model made of a fetched or transformed one: a checkpoint as that is."""
    return stage("transform") / identity


def stream(identity: str) -> Path:
    """Second moments of what a model's norms hand on, by which a transform goes."""
    return stage("transform") / f"{identity}{TENSORS}"


def corpus(identity: str) -> Path:
    """A fetched corpus as UTF-8 text."""
    return stage("fetch") / f"{identity}.txt"


def calibration(identity: str) -> Path:
    """Second moments of a model's module inputs, one file a layer."""
    return stage("calibrate") / identity


def moments(directory: Path, layer: int) -> Path:
    """Second moments of one layer, inside a calibration directory."""
    return directory / f"{_layer(layer)}{TENSORS}"


def options(identity: str, layer: int | str) -> Path:
    """What may be chosen for the modules of one layer; ``layer`` may be a Snakemake wildcard."""
    return stage("advise") / identity / f"{_layer(layer)}.json"


def advice(identity: str) -> Path:
    """What pre-flight chose for every module of a model."""
    return stage("advise") / f"{identity}.json"


def factors(identity: str, layer: int | str) -> Path:
    """Factors of one layer; ``layer`` may be a Snakemake wildcard."""
    return stage("decompose") / identity / f"{_layer(layer)}{TENSORS}"


def decomposition_rows(identity: str, layer: int | str) -> Path:
    """Errors, bounds, bits and time of one layer's decomposition."""
    return stage("decompose") / identity / f"{_layer(layer)}{ROWS}"


def assembled(identity: str) -> Path:
    """A compressed checkpoint that transformers loads."""
    return stage("assemble") / identity


def storage_rows(identity: str) -> Path:
    """Bits and bytes of a compressed checkpoint."""
    return stage("assemble") / f"{identity}{ROWS}"


def recovery(identity: str) -> Path:
    """A compressed checkpoint with trained adapters."""
    return stage("recover") / identity


def recovery_rows(identity: str) -> Path:
    """Bits and bytes of a recovered checkpoint."""
    return stage("recover") / f"{identity}{ROWS}"


def evaluation_rows(identity: str) -> Path:
    """Metrics of one task on one run."""
    return stage("evaluate") / f"{identity}{ROWS}"


def results_table(identity: str) -> Path:
    """All metrics of all runs."""
    return stage("aggregate") / identity / f"results{ROWS}"


def decompositions_table(identity: str) -> Path:
    """All errors of all decompositions."""
    return stage("aggregate") / identity / f"decompositions{ROWS}"


def jobs_table(identity: str) -> Path:
    """What every job behind the other tables cost."""
    return stage("aggregate") / identity / f"jobs{ROWS}"


def report(identity: str) -> Path:
    """A rendered report."""
    return stage("reports") / f"{identity}.html"


def site(identity: str) -> Path:
    """All pages of a study as one folder."""
    return stage("site") / identity


def made_with(artifact: Path) -> list[Path]:
    """Where a job may have made files or a folder of one name: the artifact, and what goes with it.

    Rows lie beside the factors or the checkpoint that they are of.
    """
    name = artifact.name.removesuffix(TENSORS).removesuffix(ROWS)
    return [artifact.with_name(name + suffix) for suffix in ("", TENSORS, ROWS)]


def record(rule: str, name: str) -> Path:
    """What a job says of itself (``records.py``): named as its log, part of no stage."""
    return RECORDS / rule / f"{name}.json"


def _layer(layer: int | str) -> str:
    return f"layer-{layer:03d}" if isinstance(layer, int) else f"layer-{layer}"
