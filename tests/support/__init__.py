"""What tests share: tiny models, params, stages by hand, workspaces that commands run in.

Importing it has signatures checked, so conftest.py imports it before the package.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# asserts show their values, as those of tests do
pytest.register_assert_rewrite("support.faults", "support.untrusted")


def shaped_modules() -> list[str]:
    """Modules of the package whose signatures have shapes."""
    (folder,) = find_spec("tensorpress").submodule_search_locations
    files = [f for f in Path(folder).rglob("*.py") if "from jaxtyping" in f.read_text("utf-8")]
    return [".".join(f.relative_to(Path(folder).parent).with_suffix("").parts) for f in files]


checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float

install_import_hook(shaped_modules(), "support.checked")
