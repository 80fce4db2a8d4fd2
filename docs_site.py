"""Pages of the site that are no files of docs/: those at the project's top, and the code's.

Hooks of MkDocs, which finds them by their names (mkdocs.yml).
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
    "envs/Dockerfile": "envs/Dockerfile",
    "envs/tensorpress.def": "envs/tensorpress.def",
}
"""Files outside of docs/ that pages lead to, by what they are called in the site."""

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src/tensorpress"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the code's pages at the end of the navigation."""
    config.nav = [*(config.nav or ()), {"Code": [{name: _page(name)} for name in _packages()]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, name in TOP.items():
        content = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=content))
    for package in _packages():
        files.append(File.generated(config, _page(package), content=_content(package)))
    return files


def _packages() -> list[str]:
    return sorted(folder.parent.name for folder in PACKAGE.glob("*/__init__.py"))


def _page(package: str) -> str:
    return f"code/{package}.md"


def _content(package: str) -> str:
    """The docstrings of all modules of a package and of those in it."""
    files = sorted((PACKAGE / package).rglob("*.py"))
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in files]
    modules = (".".join(each).removesuffix(".__init__") for each in parts)
    return "\n".join([f"# {package}", "", *(f"::: {module}" for module in modules), ""])
