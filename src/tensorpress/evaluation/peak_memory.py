"""Peak memory of loading a model and running one prefill, in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.errors import TensorpressError
from tensorpress.loading import load_model
from tensorpress.resident import peak_resident_bytes


def random_prompt(model: PreTrainedModel, batch: int, tokens: int, device: torch.device) -> Tensor:
    """The same random token ids ``(batch, tokens)`` for every model of one vocabulary."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)
    return ids.to(device)


def peak_bytes(
    directory: Path, batch: int, tokens: int, device: torch.device, dtype: str = "float32"
) -> int:
    """Run ``main`` in a child process and read the bytes that it prints."""
    threads = str(torch.get_num_threads())
    arguments = [str(directory), str(batch), str(tokens), device.type, threads, dtype]
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TensorpressError(f"{directory}: measuring memory failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])


def main(directory: Path, batch: int, tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that loading and one prefill add to an idle process (GPU: the allocator's peak)."""
    idle = peak_resident_bytes()
    model = load_model(directory, device, dtype)
    with torch.inference_mode():
        model(input_ids=random_prompt(model, batch, tokens, device), use_cache=False)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes() - idle


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    folder, batch, tokens, device, _, dtype = sys.argv[1:]
    print(main(Path(folder), int(batch), int(tokens), torch.device(device), getattr(torch, dtype)))
