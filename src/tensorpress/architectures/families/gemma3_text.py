"""Gemma 3, its text model: Gemma 2's names, norms of queries and keys in front of rotation."""

from dataclasses import replace

from tensorpress.architectures.families.gemma2 import FAMILY as GEMMA2

FAMILY = replace(GEMMA2, model_type="gemma3_text")
