"""Keys: stable where nothing that counts changed, different where it did."""

from __future__ import annotations

import shutil
from pathlib import Path

from tensorpress.keying import keys


def test_key_does_not_depend_on_order() -> None:
    assert keys.key(a=1, b=[1, 2]) == keys.key(b=[1, 2], a=1)
    assert keys.key(a=1) != keys.key(a=2)
    assert len(keys.key(a=1)) == 10


def test_file_fingerprint_sees_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    shutil.copy(tmp_path / "x", tmp_path / "y")
    assert keys.file_fingerprint(tmp_path / "x") == keys.file_fingerprint(tmp_path / "y")
    (tmp_path / "y").write_text("2")
    assert keys.file_fingerprint(tmp_path / "x") != keys.file_fingerprint(tmp_path / "y")
