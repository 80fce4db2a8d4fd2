"""Peak memory of loading a model and running one prefill, in a process that does nothing else."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.errors import TensorpressError
from tensorpress.loading import load_model


def random_prompt(model: PreTrainedModel, batch: int, tokens: int, device: torch.device) -> Tensor:
    """The same random token ids ``(batch, tokens)`` for every model of one vocabulary."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)
    return ids.to(device)


def peak_bytes(directory: Path, batch: int, tokens: int, device: torch.device) -> int:
    """Run ``main`` in a child process and read the bytes that it prints."""
    arguments = [str(directory), str(batch), str(tokens), device.type, str(torch.get_num_threads())]
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TensorpressError(f"{directory}: measuring memory failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])


def main(directory: Path, batch: int, tokens: int, device: torch.device) -> int:
    """Bytes that loading and one prefill add to an idle process (GPU: the allocator's peak)."""
    idle = _peak_resident_bytes()
    model = load_model(directory, device)
    with torch.inference_mode():
        model(input_ids=random_prompt(model, batch, tokens, device), use_cache=False)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident_bytes() - idle


def _peak_resident_bytes() -> int:
    # not getrusage: under Linux its peak survives exec, so a child would start at its parent's
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    print(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), torch.device(sys.argv[4])))
