"""Peak memory of loading a model and running one prefill, in a process that does nothing else."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.files.resident import peak_resident_bytes
from tensorpress.running import forkserver


def random_prompt(model: PreTrainedModel, batch: int, tokens: int, device: torch.device) -> Tensor:
    """The same random token ids ``(batch, tokens)`` for every model of one vocabulary."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)
    return ids.to(device)


def peak_bytes(
    directory: Path, batch: int, tokens: int, device: torch.device, dtype: str = "float32"
) -> int:
    """Bytes that loading and one prefill add to an idle process (GPU: the allocator's peak).

    ``TensorpressError`` if the process that measures it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bytes"
        prefill = Prefill(directory, batch, tokens, device, torch.get_num_threads(), dtype, target)
        status = forkserver.call(MEASURE, prefill)
        if status is None:
            done = subprocess.run([sys.executable, "-m", __name__], input=pickle.dumps(prefill))
            status = done.returncode
        if status:
            raise TensorpressError(f"{directory}: measuring memory failed, see above")
        return int(target.read_text())


@dataclass(frozen=True)
class Prefill:
    """A model to load and a prompt to run through it, and where to write what that takes."""

    directory: Path
    batch: int
    tokens: int
    device: torch.device
    threads: int
    dtype: str
    target: Path


MEASURE = "tensorpress.evaluation.peak_memory:measure"


def measure(prefill: Prefill) -> int:
    """Do it in this process, which must have done nothing else; the exit status."""
    torch.set_num_threads(prefill.threads)
    idle = peak_resident_bytes()
    model = load_model(prefill.directory, prefill.device, getattr(torch, prefill.dtype))
    prompt = random_prompt(model, prefill.batch, prefill.tokens, prefill.device)
    with torch.inference_mode():
        model(input_ids=prompt, use_cache=False)
    on_gpu = prefill.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(prefill.device) if on_gpu else None
    prefill.target.write_text(str(peak_resident_bytes() - idle if peak is None else peak))
    return 0


if __name__ == "__main__":
    request = pickle.load(sys.stdin.buffer)
    sys.exit(forkserver.function(MEASURE)(request))
