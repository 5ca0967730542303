"""The curves of a GRPO run as people look at them: plots/learning.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.curves import learning_picture
from data.figures import write_png


def draw_learning(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what was logged, where anything was."""
    picture = learning_picture("learning", history)
    if picture is not None:
        write_png(picture, path)
