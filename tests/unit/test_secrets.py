"""Tokens are refused in params, and hidden in what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.workspace import broken, tiny_text

from tensorpress.config.params import load, parse
from tensorpress.errors import TensorpressError
from tensorpress.errors.redaction import HIDDEN, redacted

TOKEN = "hf_" + "Zz9" * 11


@pytest.mark.parametrize(
    "path", ["models.tiny.path", "calibration.corpus", "methods.svd.rank", "token"]
)
def test_tokens_in_params_are_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(TensorpressError) as caught:
        parse(broken(path, f"x {TOKEN}"), "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {path}: what looks like a token")
    assert TOKEN not in str(caught.value)


def test_tokens_in_keys_and_in_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(TensorpressError, match="recipes") as caught:
        parse(broken(f"recipes.{TOKEN}", {}))
    assert TOKEN not in str(caught.value)
    (tmp_path / "p.yaml").write_text(f"a: {{b: {TOKEN}\nc: [")
    with pytest.raises(TensorpressError, match="not YAML") as caught:
        load(tmp_path / "p.yaml")
    assert TOKEN not in str(caught.value)


def test_redacted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    (tmp_path / "token").write_text("stored-elsewhere\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("MY_PASSWORD", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/home/me/credentials")
    for secret, text in {
        TOKEN: f"401 for token {TOKEN}.",
        "stored-elsewhere": "Bearer: stored-elsewhere",
        "wJalrXUtnFEMI/K7MDENG": "key wJalrXUtnFEMI/K7MDENG of s3",
        "AKIAIOSFODNN7EXAMPLE": "id AKIAIOSFODNN7EXAMPLE",
        "me:hunter2": "https://me:hunter2@host/file is missing",
        "abcdef": "authorization: Bearer abcdef",
        "0a1b": "https://host/file?X-Amz-Signature=0a1b&x=1",
    }.items():
        assert secret not in redacted(text)
        assert HIDDEN in redacted(text)
    plain = "short false /home/me/credentials https://host/a@b hf_short user@host tokens 12"
    assert redacted(plain) == plain
    assert redacted(tiny_text()) == tiny_text()
