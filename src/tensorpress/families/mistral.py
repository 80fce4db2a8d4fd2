"""Mistral 7B: Llama's names."""

from tensorpress.families.base import Family
from tensorpress.families.llama import LINEARS, NORMS

FAMILY = Family(model_type="mistral", linears=LINEARS, norms=NORMS)
