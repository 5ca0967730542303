"""What all pages have in common: one file that allows nothing but its own style and script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from data.store import atomic_path


def policy(style: str, script: str) -> str:
    """The content security policy of a page: these two and nothing else run or load."""
    return f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"


def _digest(code: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def write_page(text: str, path: Path) -> None:
    """Write a page, atomically.

    Raises:
        ValueError: the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"--html: {path} cannot be written ({error.strerror}); name another file with --html FILE"
        ) from error
