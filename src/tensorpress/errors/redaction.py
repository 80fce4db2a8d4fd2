"""Tokens and keys have no place in params, logs, errors or reports. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorpress.errors import TensorpressError

UNKEYED = "it only decides what is shown"

HIDDEN = "[hidden]"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
"""What access tokens of the Hugging Face hub and key ids of AWS look like."""
_KEPT_PREFIX = re.compile(
    r"(://)[^/\s@]+(?=@)"  # user and password of a URL
    r"|([Bb]earer\s+)[^\s'\"]+"
    r"|([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|sig|token)=)[^&\s'\"]+"
)
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(API|ACCESS|PRIVATE|ACCOUNT)_?KEY", re.I)
_PLACE_NAME = re.compile(r"(_FILE|_PATH|_DIR|_URL|_URI)$", re.I)
SHORTEST = 8
"""Characters of a value that is hidden wherever it stands: shorter ones are words of any text."""


def redacted(text: str) -> str:
    """``text`` without what looks like a secret, and without those that this machine knows."""
    for secret in sorted(set(_known()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = TOKEN.sub(HIDDEN, text)
    return _KEPT_PREFIX.sub(lambda m: next(filter(None, m.groups())) + HIDDEN, text)


def one_line(error: BaseException) -> str:
    """What an error of other people's code says: it may quote an address with a password."""
    return " ".join(redacted(str(error)).split())


def check_no_token(raw: Any) -> None:
    """Refuse params with a secret in a key or a value: the error says where, not what."""
    text = repr(raw)
    if redacted(text) != text:
        raise TensorpressError(
            f"{_place(raw)}: what looks like a token or password is not allowed; allowed: no "
            "secrets in params; 'hf auth login' or HF_TOKEN give one to the hub"
        )


def _place(raw: Any) -> str:
    """Path of the first value that holds a secret; that of the parent if the key is one."""
    items = raw.items() if isinstance(raw, Mapping) else enumerate(raw)
    for key, value in items if isinstance(raw, Mapping | list | tuple) else ():
        text = repr(value)
        if redacted(text) != text:
            inner = _place(value) if isinstance(value, Mapping | list | tuple) else ""
            return redacted(f"{key}.{inner}" if inner else str(key))
    return ""


def _known() -> Iterator[str]:
    """Secrets in the environment, and those that ``hf auth login`` stored."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name):
            yield from _long(value)
    from huggingface_hub.constants import HF_TOKEN_PATH

    try:
        yield from _long(Path(HF_TOKEN_PATH).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return  # not logged in


def _long(value: str) -> list[str]:
    secret = value.strip()
    return [secret] if len(secret) >= SHORTEST else []
