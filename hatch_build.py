"""What a wheel holds beside the package: the workflow, which lies at the top of the checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WORKFLOW = (
    "Snakefile",
    "envs",
    "notebooks",
    "params.yaml",
    "profiles",
    "queries",
    "rules",
    "studies",
    "workflow_scripts",
)


class WorkflowHook(BuildHookInterface):
    """Puts the workflow where ``project`` of ``tensorpress.files.paths`` finds it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":  # which takes it from where it is
            root = Path(self.root)
            taken = {str(root / part): f"tensorpress/workflow/{part}" for part in WORKFLOW}
            build_data["force_include"] |= taken
