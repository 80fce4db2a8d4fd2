"""Gemma 2: Llama's names, tied embeddings."""

from tensorpress.families.base import Family
from tensorpress.families.llama import LINEARS

FAMILY = Family(model_type="gemma2", linears=LINEARS)
