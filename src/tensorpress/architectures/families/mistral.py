"""Mistral 7B: Llama's names."""

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.llama import LINEARS, NORMS

FAMILY = Family(model_type="mistral", linears=LINEARS, norms=NORMS, narrows=True)
