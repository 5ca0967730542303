"""What all pages have in common: one file that needs nothing else.

What is not ours is escaped, and the page's Content-Security-Policy lets only its own style and script work.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

from data.store import atomic_path
from evaluation.report.rollout_text import visible


def document(title: str, body: str, style: str, script: str, drawings: bool = False) -> str:
    """The text of a page.

    Args:
        title: plain text.
        body: HTML.
        drawings: the body has SVGs, whose elements have styles of their own.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script, drawings)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(visible(title))}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def _policy(style: str, script: str, drawings: bool) -> str:
    """Nothing is loaded, and no other style or script than these works."""
    of_elements = "; style-src-attr 'unsafe-inline'" if drawings else ""
    return f"default-src 'none'; style-src '{_digest(style)}'{of_elements}; script-src '{_digest(script)}'"


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
