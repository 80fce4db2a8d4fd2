"""Task ``speed``: prefill and decode tokens per second and peak memory, against dense.

Dense and compressed alternate in one process, so that both see the same machine; medians over
rounds count. Peak memory is measured in a child process for each model, which holds nothing else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.speed import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.peak_memory import peak_bytes, random_prompt
from tensorpress.running.oom import with_fallback
from tensorpress.running.placement import place

MIB = 2**20


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Tokens per second of both models, their ratios, and peak memory above an idle process."""
    models = {name: job.model(path) for name, path in _directories(job).items()}
    return with_fallback(
        "speed",
        lambda device, batch: _compare(job, spec, models, device, batch),
        job.device,
        spec.batch,
        lambda device: [place(model, device) for model in models.values()],
        job.say,
    )


def _directories(job: EvaluationJob) -> dict[str, Path]:
    return {"dense": job.dense, "compressed": job.run_directory}


def _compare(
    job: EvaluationJob,
    spec: Spec,
    models: Mapping[str, PreTrainedModel],
    device: torch.device,
    batch: int,
) -> list[EvalRow]:
    prompt = random_prompt(models["dense"], batch, spec.prompt_tokens, device)
    works: dict[str, Callable[[PreTrainedModel], float]] = {
        "prefill": lambda model: prefill_speed(model, prompt),
        "decode": lambda model: decode_speed(model, prompt, spec.new_tokens),
    }
    parts = [f"batch {batch}", f"prompt {spec.prompt_tokens}", machine(device)]
    version = ", ".join([*parts, *[job.dtype] * (job.dtype != "float32")])
    rows = []
    for work, measure in works.items():
        speeds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(spec.repeats + 1):
            for name, model in models.items():
                speeds[name].append(measure(model))
        # the first round warms caches and allocators up
        medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
        row = partial(EvalRow, samples=spec.repeats, version=version)
        rows += [
            row(metric=f"{work}_tokens_per_second", state=name, value=value)
            for name, value in medians.items()
        ]
        ratio = medians["compressed"] / medians["dense"]
        rows.append(row(metric=f"{work}_speedup", value=ratio))
    for name, path in _directories(job).items():
        peak = peak_bytes(path, batch, spec.prompt_tokens, device, job.dtype)
        rows.append(
            EvalRow(
                metric="peak_memory_mib", state=name, value=peak / MIB, samples=1, version=version
            )
        )
    return rows


@torch.inference_mode()
def prefill_speed(model: PreTrainedModel, prompt: Tensor) -> float:
    """Tokens per second of one forward pass over ``prompt (batch, tokens)``."""
    start = _now(prompt.device)
    model(input_ids=prompt, use_cache=False)
    return prompt.numel() / (_now(prompt.device) - start)


@torch.inference_mode()
def decode_speed(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> float:
    """New tokens per second, one after the other behind a prompt that is not timed."""
    state = model(input_ids=prompt, use_cache=True)
    token = state.logits[:, -1:].argmax(-1)
    start = _now(prompt.device)
    for _ in range(new_tokens):
        state = model(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
        token = state.logits[:, -1:].argmax(-1)
    return token.shape[0] * new_tokens / (_now(prompt.device) - start)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine(device: torch.device) -> str:
    """What the numbers were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
