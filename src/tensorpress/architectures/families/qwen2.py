"""Qwen2 and Qwen2.5: Llama's names, biases on q, k and v."""

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.llama import LINEARS, NORMS

FAMILY = Family(model_type="qwen2", linears=LINEARS, norms=NORMS, narrows=True)
