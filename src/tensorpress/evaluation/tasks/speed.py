"""Task ``speed``: prefill and decode tokens per second and peak memory, against dense.

Dense and compressed alternate in one process, so that both see the same machine; medians over
rounds count. Peak memory is measured in a child process for each model, which holds nothing else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.peak_memory import peak_bytes, random_prompt
from tensorpress.evaluation.specs import Speed
from tensorpress.loading import load_model
from tensorpress.rows import EvalRow

MIB = 2**20


def evaluate(job: EvaluationJob, spec: Speed) -> list[EvalRow]:
    """Tokens per second of both models, their ratios, and peak memory above an idle process."""
    directories = {"dense": job.dense, "compressed": job.run_directory}
    models = {name: load_model(path, job.device) for name, path in directories.items()}
    prompt = random_prompt(models["dense"], spec.batch, spec.prompt_tokens, job.device)
    works: dict[str, Callable[[PreTrainedModel], float]] = {
        "prefill": lambda model: _prefill_speed(model, prompt),
        "decode": lambda model: _decode_speed(model, prompt, spec.new_tokens),
    }
    version = f"batch {spec.batch}, prompt {spec.prompt_tokens}, {_machine(job.device)}"
    rows = []
    for work, measure in works.items():
        speeds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(spec.repeats + 1):
            for name, model in models.items():
                speeds[name].append(measure(model))
        # the first round warms caches and allocators up
        medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
        rows += [
            EvalRow(f"{work}_tokens_per_second_{name}", value, None, spec.repeats, version)
            for name, value in medians.items()
        ]
        ratio = medians["compressed"] / medians["dense"]
        rows.append(EvalRow(f"{work}_speedup", ratio, None, spec.repeats, version))
    for name, path in directories.items():
        peak = peak_bytes(path, spec.batch, spec.prompt_tokens, job.device)
        rows.append(EvalRow(f"peak_memory_mib_{name}", peak / MIB, None, 1, version))
    return rows


@torch.inference_mode()
def _prefill_speed(model: PreTrainedModel, prompt: Tensor) -> float:
    start = _now(prompt.device)
    model(input_ids=prompt, use_cache=False)
    return prompt.numel() / (_now(prompt.device) - start)


@torch.inference_mode()
def _decode_speed(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> float:
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


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
