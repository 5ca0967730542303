"""What an error says of a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, valid: Iterable[str], otherwise: str = "") -> str:
    """The valid name that was meant; where none is near, `otherwise`, or all names that there are."""
    names = list(valid)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"there are {', '.join(names) or 'none'}"
