"""A whole model on one GPU: seconds of every method beside the published ones, and tokens a second.

    python benchmarks/gpu.py [--size llama-2-7b|small] [--layers N] [--device cuda|cpu] [--json F]

Prints two Markdown tables. The first: seconds of each method for a layer (mean over all layers)
and for the whole model, and of the published algorithm, on the first layer only: tntorch for
tensor trains and tensorly for Tucker with the study's settings, ``torch.linalg.svd``, SVD-LLM's
Cholesky factor for the whitened SVD. Errors are of the first layer's group, over its norm. The
second: tokens a second in bfloat16 of the model made of these factors, over those of the same model
dense. Weights (``make_checkpoint.values``) are made layer by layer on the device. Methods that have
a peer come first. One that fails is told of, and the others go on; after ``--within`` none begins.
The exit status is the number of those that failed.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import statistics
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorly
import torch
from decompose import ORDER, RANK, now
from make_checkpoint import SHAPES, values
from published import PEERS, TUCKER
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tensorpress.analysis.frobenius import squared_errors
from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.layers import LayerShape
from tensorpress.architectures.sites import count_of, gradient_of
from tensorpress.evaluation.peak_memory import random_prompt
from tensorpress.evaluation.tasks.speed import decode_speed, machine, prefill_speed
from tensorpress.formats.base import STORES
from tensorpress.formats.model import install
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import Factors, stacked
from tensorpress.methods.registry import METHODS, load

SMALL = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
SIZES = {"small": (2, 32, 4), "llama-2-7b": (4, 512, 64)}
"""Model -> windows, tokens of a prompt and new tokens of the comparison of speeds."""
GROUPS = ("attention", "ffn")
HALF = {"budget": {"saved": 0.5}}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "svd": [HALF, {**HALF, "whiten": "input"}],
    "tt": [{"order": ORDER, "rank": RANK}, {"order": ORDER, "rank": RANK, "whiten": "input"}],
    "tt_sparse": [{"order": ORDER, "rank": RANK, "outliers": 0.01}],
    "tt_per_head": [{"order": 4, **HALF}],
    "tucker_qkvo": [{"ranks": TUCKER}],
}
"""Those of the study, and variants; of other methods half of the values, or their example."""
REPEATS = 5
DECAY = 0.7


@dataclass
class Run:
    """What one method did to one group: seconds of each layer, the first one's error, factors."""

    spec: MethodSpec
    group: str
    seconds: list[float]
    error: float
    peer: tuple[str, float, float] | None
    factors: list[list[Factors]]


def main() -> None:
    """Print the machine and both tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SIZES, default="llama-2-7b")
    options.add_argument("--layers", type=int, help="fewer than the model has")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    here = [method for method in METHODS if not reason_against(method)]
    options.add_argument("--methods", nargs="+", choices=here, default=here)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--within", type=float, default=math.inf, help="seconds")
    options.add_argument("--json", type=Path, help="the same in a file")
    chosen = options.parse_args()
    began = now()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        options.error("--device: cuda is not allowed; allowed: cpu, for no GPU is visible")
    torch.set_num_threads(chosen.threads)
    tensorly.set_backend("pytorch")
    device = torch.device(chosen.device)
    config = SMALL
    if chosen.size != "small":
        config = json.loads(SHAPES[chosen.size].read_text(encoding="utf-8"))
    if chosen.layers:
        config = {**config, "num_hidden_layers": chosen.layers}
    reasons = {method: reason_against(method) for method in METHODS if method not in here}
    left_out = ", ".join(f"{method} ({why})" for method, why in reasons.items())
    print(f"{machine(device)}; {chosen.size}, {config['num_hidden_layers']} layers", end="; ")
    print(f"float32; without {left_out}\n\n{HEADER}", flush=True)
    batch, tokens, new_tokens = asked = SIZES[chosen.size]
    speeds = [("dense", *speed(config, device, [], *asked))]
    told = {"machine": machine(device), "torch": torch.__version__, "size": chosen.size}
    found: list[dict[str, Any]] = []
    failed = 0
    asked_for = [(method, each) for method in chosen.methods for each in settings_of(method)]
    labels = {load(method).Spec(method=method, **each).label: (method, each)
              for method, each in asked_for}  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the tables are of what there was
    warm_up(device)
    for label in sorted(labels, key=lambda label: label not in PEERS):
        if now() - began > chosen.within:
            print(f"| {label} | | not begun: {chosen.within:.0f} s are over |", flush=True)
            continue
        try:
            runs = shown(decompose(config, *labels[label], device))
            found += [entry(run) for run in runs]
            speeds.append((label, *speed(config, device, runs, *asked)))
        except (RuntimeError, ValueError, TypeError) as error:  # what a device cannot, and bugs
            failed += 1
            print(f"| {label} | | failed: {str(error).splitlines()[0][:200]} |", flush=True)
            traceback.print_exc()
        except SystemExit:
            failed += 1
            print(f"| {label} | | stopped |", flush=True)
            break
        if chosen.json:
            whole = {**told, "methods": found, "tokens_per_second": speeds}
            chosen.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    print(f"\nbfloat16, batch {batch}, prompt {tokens}, {new_tokens} new tokens\n\n{SPEED_HEADER}")
    for row in speeds:
        print(speed_row(row, speeds[0]))
    raise SystemExit(failed)


def shown(runs: Iterator[Run]) -> list[Run]:
    """The runs, each printed when it is done."""
    done = []
    for run in runs:
        print(seconds_row(run), flush=True)
        done.append(run)
    return done


def entry(run: Run) -> dict[str, Any]:
    """What the JSON holds of a run: all but its factors."""
    kept = ("group", "seconds", "error", "peer")
    return {"label": run.spec.label, **{name: getattr(run, name) for name in kept}}


def warm_up(device: torch.device) -> None:
    """Load the libraries of products and factorisations, which the first method would pay for."""
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(64, 64, device=device, dtype=dtype)
        gram = x @ x.mT + torch.eye(64, device=device, dtype=dtype)
        root = torch.linalg.cholesky(gram)
        torch.linalg.solve_triangular(root, x, upper=False)
        for factorise in (torch.linalg.eigh, torch.linalg.svd, torch.linalg.qr):
            factorise(gram)


def reason_against(method: str) -> str | None:
    """Why a method is not measured here, if it is not."""
    example = load(method).EXAMPLE
    if example.needs_advice:
        return "made of the others"
    return None if {*GROUPS} & {*example.groups} else f"made for {', '.join(example.groups)}"


def settings_of(method: str) -> list[dict[str, Any]]:
    """The settings with which a method is measured."""
    example = load(method).EXAMPLE
    settings = example.model_dump(exclude={"method"}, exclude_unset=True)
    return SETTINGS.get(method, [HALF if "budget" in example.sized_by else settings])


HEADER = """\
| method | group | s a layer | s the model | published | s a layer | times faster | our error | over theirs |
| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"""  # noqa: E501
SPEED_HEADER = """\
| factors | prefill tok/s | over dense | decode tok/s | over dense |
| --- | ---: | ---: | ---: | ---: |"""


def seconds_row(run: Run) -> str:
    """One line of the first table."""
    mean = statistics.fmean(run.seconds)
    cells = [run.spec.label, run.group, f"{mean:.3f}", f"{sum(run.seconds):.2f}"]
    if run.peer is None:
        cells += ["", "", "", f"{run.error:.6f}", ""]
    else:
        name, theirs, error = run.peer
        over = f"{run.error / error:.6f}" if error else ""
        cells += [name, f"{theirs:.3f}", f"{theirs / mean:.1f}", f"{run.error:.6f}", over]
    return f"| {' | '.join(cells)} |"


def speed_row(row: tuple[str, float, float], dense: tuple[str, float, float]) -> str:
    """One line of the second table."""
    name, prefill, decode = row
    over = prefill / dense[1], decode / dense[2]
    return f"| {name} | {prefill:,.0f} | {over[0]:.2f} | {decode:,.0f} | {over[1]:.2f} |"


def decompose(
    config: dict[str, Any], method: str, settings: dict[str, Any], device: torch.device
) -> Iterator[Run]:
    """Every group of every layer that the method is made for, timed."""
    architecture, made = architecture_of(config, "benchmark"), load(method)
    spec = made.Spec(method=method, **settings)
    for group in GROUPS:
        if group not in spec.groups:
            continue
        run = Run(spec, group, [], 0.0, None, [])
        for layer in range(architecture.layers):
            shape = architecture.shape(layer)
            weights = layer_weights(shape, group, layer, device)
            moments = layer_moments(weights, layer) if spec.needs_moments else {}
            start = now()
            factors = made.decompose(weights, shape, spec, moments or None)
            run.seconds.append(now() - start)
            if layer == 0:
                run.error = our_error(factors, weights)
                if spec.label in PEERS:
                    name, peer = PEERS[spec.label]
                    try:
                        theirs, error = peer(weights, moments, factors)
                        run.peer = name, theirs, math.sqrt(error)
                    except RuntimeError as error:  # theirs, which the others need not suffer
                        run.peer = f"{name}: {str(error).splitlines()[0][:80]}", math.nan, math.nan
            for each in factors:
                each.store.to(torch.bfloat16)  # all layers stay on the device
            run.factors.append(factors)
        yield run


def layer_weights(
    shape: LayerShape, group: str, layer: int, device: torch.device
) -> dict[str, Tensor]:
    """Matrices of a group with a decaying spectrum, made on the device."""
    generator = torch.Generator(device).manual_seed(layer)
    with device:
        return {
            module: values("weight", (s.out_features, s.in_features), torch.float32, generator)
            for module, s in shape.group(group).items()
        }


def layer_moments(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """``E[x x^T]`` of twice as many inputs as features, of falling scale, for each module.

    Beside it gradients of one size and the number of inputs, as a moments file has them.
    """
    moments: dict[str, Tensor] = {}
    for module, weight in weights.items():
        size, device = weight.shape[1], weight.device
        generator = torch.Generator(device).manual_seed(layer)
        scale = torch.arange(1, size + 1, device=device) ** -(DECAY / 2)
        x = torch.randn(2 * size, size, generator=generator, device=device) * scale
        moments[module] = x.mT @ x / len(x)
        moments[gradient_of(module)] = torch.ones(len(weight), device=device)
        moments[count_of(module)] = torch.tensor([len(x)], device=device)
    return moments


def our_error(factors: Sequence[Factors], weights: dict[str, Tensor]) -> float:
    """Relative error of all matrices of the group together."""
    lost = total = 0.0
    for each in factors:
        for first, module in enumerate(each.modules):
            error, norm = squared_errors(each.store, first, stacked(weights[module]))
            lost, total = lost + error, total + norm
    return math.sqrt(lost / total)


def speed(
    config: dict[str, Any],
    device: torch.device,
    runs: Sequence[Run],
    batch: int,
    tokens: int,
    new_tokens: int,
) -> tuple[float, float]:
    """Tokens a second, prefilled and decoded, with the factors of ``runs`` in every layer."""
    model = build(config, device, runs)
    prompt = random_prompt(model, batch, tokens, device)
    works = [lambda: prefill_speed(model, prompt), lambda: decode_speed(model, prompt, new_tokens)]
    # the first round warms caches and allocators up
    prefill, decode = (statistics.median([work() for _ in range(REPEATS)][1:]) for work in works)
    return prefill, decode


def build(config: dict[str, Any], device: torch.device, runs: Sequence[Run]) -> PreTrainedModel:
    """The model in bfloat16 on the device, its other weights random."""
    known, family = AutoConfig.for_model(**config), architecture_of(config, "benchmark").family
    placed = list(placements(family, runs))
    plan = {"stores": [], "linears": [], "embeddings": [], "experts": [], "adapters": []}
    for owner, name, layer, factors in placed:
        plan["stores"].append({"owner": owner, "name": name, **factors.store.description})
        for index, module in enumerate(factors.modules):
            path = family.linear_path(layer, module)
            plan["linears"].append({"path": path, "parts": [[owner, name, index]], "heads": None})
    with device:
        model: Any = AutoModelForCausalLM.from_config(known, dtype=torch.bfloat16)
        install(model, plan)
    for owner, name, _, factors in placed:
        model.get_submodule(f"{owner}.{STORES}.{name}").load_state_dict(factors.store.state_dict())
    return model.to(device, torch.bfloat16).requires_grad_(False).eval()


def placements(family: Family, runs: Sequence[Run]) -> Iterator[tuple[str, str, int, Factors]]:
    """Where each factor set goes: owner, name, layer."""
    for run in runs:
        for layer, sets in enumerate(run.factors):
            for factors in sets:
                name = "-".join(factors.modules).replace(".", "_")
                yield family.layer_path(layer), name, layer, factors


if __name__ == "__main__":
    main()
