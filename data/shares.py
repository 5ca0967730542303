"""The run folder of a stage that is done in shares (data/processes.py: `share`).

Each share appends the rows that it has drawn to a journal of its own in the folder and ends. The stage, then
run as a whole, finds all rows there and finishes.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from data.processes import share
from data.recipe import Recipe
from data.run_folder import RunFolder, hold, plan, stage_folder


@contextmanager
def shared_folder(recipe: Recipe) -> Iterator[None]:
    """Hold the run folder together with other shares; the first of them makes it, or moves a stale one aside.
    No other process can take the folder meanwhile.

    Raises:
        RecipeError: see `plan`; or the same share, or the stage as a whole, is running.
    """
    folder = stage_folder(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with open(folder.with_name(f".{folder.name}.shares"), "a") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            planned = plan(recipe)
            if planned.state in ("new", "stale"):
                RunFolder(recipe, planned).stop("interrupted", "its shares are being drawn")
            held.enter_context(hold(recipe, folder / ".lock", shared=True))
            held.enter_context(hold(recipe, folder / f".lock-{share()[0]}"))
        yield
