"""A copy of the project with a tiny model and params, driven as a user would: by commands."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from textwrap import dedent, indent

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tensorpress.running.records import RUN

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
BIN = Path(sys.executable).parent


def tiny_text() -> str:
    """About 60 kB of prose that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))[:60_000]


def tiny_tokenizer(vocabulary: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``tiny_text``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=["<end>"]
    )
    tokenizer.train_from_iterator([tiny_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def tiny_llama(layers: int = 3) -> LlamaForCausalLM:
    """Random Llama with grouped-query attention: 4 heads, 2 of keys and values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def tiny_moe(layers: int = 2) -> Qwen3MoeForCausalLM:
    """Random Qwen3-MoE: 4 experts, 2 per token."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
    )
    return Qwen3MoeForCausalLM(config)


def tiny_bert(layers: int = 2) -> BertForMaskedLM:
    """Random BERT of two layers, whose biases are not zero."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=303,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    model = BertForMaskedLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def masked_tokenizer() -> PreTrainedTokenizerFast:
    """``tiny_tokenizer`` with the tokens that masked language models need."""
    tokenizer = tiny_tokenizer()
    special = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer.add_special_tokens(special)
    return tokenizer


def save_tiny(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """Save a tiny model with its tokenizer as a local model directory."""
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def tiny_params() -> dict:
    """A study of one local model that takes seconds: two methods, two recipes, one task."""
    return {
        "storage": {"dtype": "float32"},
        "models": {"tiny": {"source": "local", "path": "inputs/tiny"}},
        "corpora": {"text": {"source": "file", "path": "inputs/text.txt"}},
        "calibration": {"corpus": "text", "tokens": 256, "window": 64, "batch": 2},
        "methods": {
            "svd": {"method": "svd", "rank": 8, "whiten": "input"},
            "drop": {"method": "drop"},
        },
        "layer_sets": {"one": {"middle": 1}},
        "recipes": {
            "svd": {
                "models": ["tiny"],
                "steps": [{"modules": ["ffn"], "method": "svd"}],
                "layers": ["one"],
                "tasks": ["heldout"],
            },
            "drop": {
                "models": ["tiny"],
                "steps": [{"modules": ["ffn"], "method": "drop"}],
                "layers": ["one"],
                "tasks": ["heldout"],
            },
        },
        "tasks": {
            "heldout": {"kind": "perplexity", "corpus": "text", "window": 64, "max_windows": 4}
        },
        "reports": {"pareto": {"notebook": "pareto", "model": "tiny", "task": "heldout"}},
    }


def broken(path: str, value: object) -> dict:
    """``tiny_params`` with another value at a dotted path."""
    params = copy.deepcopy(tiny_params())
    *parents, last = path.split(".")
    place = params
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return params


class Workspace:
    """A project folder under git (and, if wanted, DVC) that commands run in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}

    @classmethod
    def create(cls, folder: Path, params: dict | None = None) -> Workspace:
        """Copy the project's files, write tiny inputs and params, and commit."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        for name in listed:
            if not name.startswith(("tests/", ".ci/")) and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        workspace = cls(folder)
        (folder / "inputs").mkdir()
        save_tiny(tiny_llama(), folder / "inputs/tiny")
        (folder / "inputs/text.txt").write_text(tiny_text(), encoding="utf-8")
        workspace.write_params(params or tiny_params())
        workspace.git("init", "-q", "-b", "main")
        workspace.commit("X")
        return workspace

    def write_params(self, params: dict) -> None:
        text = yaml.safe_dump(params, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file; the text must be there."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text, (name, old)
        path.write_text(text.replace(old, new), encoding="utf-8")

    def plant(self, rule: str, lines: str) -> None:
        """Let jobs of a rule begin with lines of Python, which end them; no key depends on that."""
        name, begin = "src/tensorpress/running/job.py", "            stage = import_module("
        planted = f"            if request.rule == {rule!r}:\n{indent(dedent(lines), ' ' * 16)}\n"
        self.edit(name, begin, planted + begin)

    def weed(self) -> None:
        """Undo ``plant``."""
        self.git("checkout", "-q", "--", "src/tensorpress/running/job.py")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the folder, with the folder's own package."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
        return done

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != RUN}
        searched = (str(self.folder / "src"), os.environ.get("PYTHONPATH", ""))
        return {
            **inherited,  # without the name of a run, which a test may have taken here
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, searched)),
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
            **self.variables,
        }  # fmt: skip

    def git(self, *arguments: str) -> None:
        self.run("git", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--cores", "2", *arguments, check=check)

    def ran(self, *, to_the_end: bool = False) -> Counter[str]:
        """Jobs that ran since the last call, by rule, read from the logs that each leaves.

        ``to_the_end``: without those that failed or were killed.
        """
        folder = self.folder / "results/logs"
        logs = list(folder.rglob("*.log"))
        kept = [g for g in logs if not to_the_end or g.read_text().endswith("finished\n")]
        for log in logs:
            log.unlink()
        return Counter(log.relative_to(folder).parts[0] for log in kept)

    def planned(self, *arguments: str) -> Counter[str]:
        """Jobs that ``snakemake -n`` would run, by rule, without the target rules."""
        done = self.snakemake("-n", "--quiet", "rules", *arguments)
        counts: Counter[str] = Counter()
        for line in (done.stdout + done.stderr).splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit() and words[0] not in ("total", "all"):
                counts[words[0]] = int(words[1])
        return counts

    def nothing_to_do(self) -> bool:
        done = self.snakemake("-n")
        return "Nothing to be done" in done.stdout + done.stderr

    def dvc_clean(self) -> bool:
        done = self.run("dvc", "status", "--json")
        return json.loads(done.stdout) == {}


EVERYTHING = Counter(
    fetch_model=1,
    fetch_corpus=1,
    calibrate=1,
    decompose=2,
    assemble=3,
    evaluate=3,
    aggregate=1,
    report=1,
    site=1,
)
"""Jobs of ``tiny_params`` from nothing, by rule."""
