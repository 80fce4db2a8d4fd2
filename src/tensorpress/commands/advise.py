"""``tensorpress advise``: pre-flight advice on one model, through the pipeline's own stages."""

from __future__ import annotations

import subprocess
import sys

import yaml
from pydantic import ValidationError

from tensorpress.commands.checkpoints import local_model
from tensorpress.commands.workflow import snakemake
from tensorpress.config.params import Params, parse
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import replacing
from tensorpress.methods.advised import ROUNDING, Advice, Advised, Choice
from tensorpress.methods.advised import Spec as AdvisedSpec
from tensorpress.planning.plan import Plan


def advise(model: str, params: Params, saved: float, quantise: bool) -> Advice:
    """Fetch, calibrate and advise, as far as that is not done; nothing is evaluated.

    ``model``: a name of ``params.models``, the folder of a checkpoint, or a GGUF file. Corpora,
    calibration and precision are those of ``params``. An ``advised`` method of equal settings
    finds the same artifact. ``TensorpressError`` if a job fails.
    """
    study = _study(model, params, saved, quantise)
    plan = Plan(study)
    (identity,) = plan.advices
    target = paths.advice(identity)
    if not target.is_file():
        file = paths.RESULTS / "advise.yaml"
        with replacing(file) as temporary:
            dumped = study.model_dump(mode="json", by_alias=True, exclude_none=True)
            temporary.write_text(yaml.safe_dump(dumped), encoding="utf-8")
        command = snakemake("--configfile", str(file), "--", str(target))
        # its progress is not the answer
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            raise TensorpressError(f"advise: snakemake failed for {model!r}, see above")
    return Advice.model_validate_json(target.read_text(encoding="utf-8"))


def _study(model: str, params: Params, saved: float, quantise: bool) -> Params:
    """A study of nothing but the advice."""
    try:
        method = AdvisedSpec(method="advised", saved=saved, quantise=quantise)
    except ValidationError as error:
        raise TensorpressError(
            f"--saved: {saved} is not allowed; allowed: between 0 and 1"
        ) from error
    external = list(params.external)
    if model in params.models:
        name, given = (
            model,
            {each: params.models[each] for each in (model, params.source_of(model)[0])},
        )
    elif found := local_model(model):
        name, given = found[0], dict([found])
        external.append(model)  # named by the user on the command line
    else:
        raise TensorpressError(
            f"advise: {model!r} is neither a model of the params nor a checkpoint; "
            f"allowed: {', '.join(params.models)}, a checkpoint's folder, or a GGUF file"
        )
    return parse(
        {
            "storage": params.storage.model_dump(),
            "compute": params.compute.model_dump(),
            "external": external,
            "models": {n: spec.model_dump(exclude={"baseline_tasks"}) for n, spec in given.items()},
            "corpora": {key: corpus.model_dump() for key, corpus in params.corpora.items()},
            "calibration": params.calibration.model_dump(),
            "methods": {"advised": method.model_dump()},
            "layer_sets": {"all": "all"},
            "recipes": {
                "advised": {
                    "models": [name],
                    "steps": [{"modules": ["all"], "method": "advised"}],
                    "layers": ["all"],
                    "tasks": ["prediction"],
                }
            },
            "tasks": {"prediction": {"kind": "prediction"}},
            "reports": {},
        }
    )


def rows(advice: Advice) -> list[tuple[object, ...]]:
    """One line a choice: what to use, what it saves and costs, and the best factors beside it."""
    return [_row(each) for each in advice.modules]


def _row(each: Advised) -> tuple[object, ...]:
    chosen = each.chosen
    factors = [c for c in each.alternatives if c.method not in ("dense", ROUNDING)]
    beside = factors[0] if each.quantise and factors else None
    return (
        chosen.layer,
        " ".join(chosen.modules),
        describe(chosen),
        100 * (1 - chosen.bits / chosen.dense_bits),
        chosen.damage,
        f"{chosen.macs / chosen.dense_macs:.2f} x",
        describe(beside) if beside else "",
        beside.damage if beside else "",
    )


def describe(choice: Choice) -> str:
    """A choice in words: ``svd rank 64``, ``quantise to 4 bits, groups of 64``."""
    if choice.method == "dense":
        return "leave dense"
    if choice.method == ROUNDING:
        size = choice.settings["group_size"]
        shared = f", groups of {size}" if size else ""
        return f"quantise to {choice.settings['bits']} bits{shared}"
    ranks = "; ".join(
        ", ".join(
            f"{name.replace('_', ' ')} {_short(value)}" for name, value in each.items() if value
        )
        for each in choice.ranks
    )
    return f"{choice.method} {ranks}"


def _short(value: object) -> str:
    return str(max(value)) if isinstance(value, list) else str(value)
