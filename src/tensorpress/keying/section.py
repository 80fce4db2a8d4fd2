"""What all settings have in common. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

UNKEYED = "settings are part of a key by their values"


class Section(BaseModel):
    """Unknown names and numbers that are not finite are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
