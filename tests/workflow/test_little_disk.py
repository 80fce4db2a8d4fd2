"""``snakemake --all-temp``: what was read for the last time goes, and nothing is done twice."""

from __future__ import annotations

from support.workspace import EVERYTHING, Workspace

LAST = ("aggregate", "report", "site")


def test_tables_and_pages_stay(workspace: Workspace) -> None:
    results = workspace.folder / "results"
    workspace.plant("aggregate", "raise SystemExit(1)")
    assert workspace.snakemake("--all-temp", check=False).returncode
    ran = workspace.ran(to_the_end=True)
    assert ran == {r: n for r, n in EVERYTHING.items() if r not in LAST}
    assert not list(results.glob("*/*.safetensors")), "no checkpoint, factor or moment is left"
    assert not list(results.glob("*/*/*.safetensors"))
    workspace.weed()
    workspace.snakemake("--all-temp")
    assert workspace.ran() == dict.fromkeys(LAST, 1)
    kept = {path.relative_to(results).parts[0] for path in results.glob("*/*")}
    assert kept - {"logs", "records"} == {"aggregate", "reports", "site"}
    assert workspace.nothing_to_do()
