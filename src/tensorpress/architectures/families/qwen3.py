"""Qwen3: Llama's names, a head size of its own."""

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.llama import LINEARS, NORMS

FAMILY = Family(model_type="qwen3", linears=LINEARS, norms=NORMS, narrows=True)
