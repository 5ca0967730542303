"""Stages of a pipeline side by side: each begins when those that it reads have finished and a place is free.

What a stage says goes to a file beside its folder, which is kept where the stage has failed; the terminal
shows what runs (as `slowthink show --live` does), and a line when a stage begins and ends.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from data.recipe import Recipe, references
from data.run_folder import stage_folder
from data.stage import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR
from launch.machines import END_SECONDS
from launch.pipeline import end, processes, run_or_skip, say
from launch.stop_requests import StopRequests

LOOK_SECONDS = 1.0
"""Between two pictures of what runs."""
TOLD_LINES = 20
"""At most, of what a stage has said that has failed: from its last error on, or the last ones."""


def run_side_by_side(recipes: Sequence[Recipe], todo: set[str], jobs: int) -> int:
    """Run stages, at most `jobs` at once and those first that come first; what is finished is skipped.

    A stage that fails stops those that read its result, and no others. SIGUSR1, SIGTERM and Ctrl-C stop
    all: nothing more begins, and what runs closes its folder.

    Args:
        todo: titles of the recipes that are not finished.
    Returns:
        0, the code of the stage that failed first, 130 after Ctrl-C or 75 after another request to stop.
    """
    board = _Board(recipes)
    with StopRequests(count_interrupts=True) as stop, ThreadPoolExecutor(jobs) as pool, _screen() as show:
        asked_at: float | None = None
        while board.running or (board.waiting and not stop.made):
            while not stop.made and len(board.running) < jobs and (recipe := board.next_ready()):
                board.running[pool.submit(_run, recipe, todo, stop, jobs)] = recipe
            ended = wait(board.running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED).done
            for future in ended:
                board.close(future, asked=stop.made)
            show(board, bool(ended))
            if stop.interrupts:
                asked_at = asked_at or time.monotonic()
                if stop.interrupts > 1 or time.monotonic() - asked_at > END_SECONDS:
                    for process in stop.processes:
                        end(process, seconds=0)
    board.tell_what_is_left()
    if stop.made and not board.failed and board.left:
        return EXIT_INTERRUPTED if stop.interrupts else EXIT_PREEMPTED
    return next(iter(board.failed.values()), 0)


# ------------------------------------------------------------------ which stage is next


class _Board:
    """What waits, runs and is over, by titles."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        titles = {(recipe.copy, recipe.name): recipe.title for recipe in recipes}
        self.reads = {
            recipe.title: [titles[of] for name in references(recipe) if (of := (recipe.copy, name)) in titles]
            for recipe in recipes
        }
        """Of each stage those that it reads, among the chosen ones."""
        self.waiting = list(recipes)
        self.running: dict[Future[int], Recipe] = {}
        self.began: dict[str, float] = {}
        self.done: set[str] = set()
        self.stopped: set[str] = set()
        self.failed: dict[str, int] = {}
        """Codes, in the order of the ends."""
        self.barred: dict[str, str] = {}
        """What will not be run, and which stage it reads that has failed or will not be run either."""

    @property
    def left(self) -> list[str]:
        """What a request to stop has kept from its end."""
        waiting = {recipe.title for recipe in self.waiting}
        return [title for title in self.reads if title in self.stopped | waiting]

    def __str__(self) -> str:
        parts = {
            "done": self.done,
            "failed": self.failed,
            "not to be run": self.barred,
            "running": self.running,
            "to come": self.waiting,
        }
        return ", ".join(f"{len(titles)} {what}" for what, titles in parts.items() if titles)

    def next_ready(self) -> Recipe | None:
        """The first stage all of whose inputs are there; it begins."""
        for recipe in self.waiting:
            if self.done.issuperset(self.reads[recipe.title]):
                self.waiting.remove(recipe)
                self.began[recipe.title] = time.time()
                return recipe
        return None

    def close(self, future: Future[int], *, asked: bool) -> None:
        """Note how a stage has ended; one that was stopped though all were not `asked` to has failed."""
        recipe, code = self.running.pop(future), future.result()
        if code == 0:
            self.done.add(recipe.title)
        elif asked and code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
            self.stopped.add(recipe.title)
        else:
            self.failed[recipe.title] = code
        for other in list(self.waiting):
            bad = [title for title in self.reads[other.title] if title in {**self.failed, **self.barred}]
            if bad:
                self.waiting.remove(other)
                self.barred[other.title] = bad[0]

    def tell_what_is_left(self) -> None:
        """Say on stderr which stages have failed, and which were not run and why."""
        for title, code in self.failed.items():
            print(f"error: {title} ended with code {code}", file=sys.stderr)
        if self.barred:
            barred = ", ".join(f"{title} (reads {why})" for title, why in self.barred.items())
            print(f"not run: {barred}", file=sys.stderr)
        if self.left:
            print(f"stopped: {', '.join(self.left)}. The same command goes on", file=sys.stderr)


# ------------------------------------------------------------------ one stage among others


def _run(recipe: Recipe, todo: set[str], stop: StopRequests, jobs: int) -> int:
    """In a thread of its own: a stage from begin to end. Returns its exit code."""
    said = stage_folder(recipe).with_name(f".{stage_folder(recipe).name}.said")
    said.parent.mkdir(parents=True, exist_ok=True)
    recipe = _with_free_port(recipe)
    threads = max(1, len(os.sched_getaffinity(0)) // (jobs * processes(recipe)))
    with open(said, "wb") as file:

        def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bool]:
            environment = {"OMP_NUM_THREADS": str(threads), "TQDM_MININTERVAL": "10", **environment}
            to = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            return stop.start(command, environment, **to).wait(), stop.made

        try:
            code = run_or_skip(recipe, todo, run)
        except ValueError as error:
            say(f"error: {error}", sys.stderr)
            code = EXIT_USER_ERROR
    _tell_end(recipe, code, said)
    return code


def _with_free_port(recipe: Recipe) -> Recipe:
    """Two launches of several processes on one machine must not meet at the same port."""
    if not recipe.launch or {"num_machines", "main_process_port"} & recipe.launch.keys():
        return recipe
    return dataclasses.replace(recipe, launch={**recipe.launch, "main_process_port": 0})


def _tell_end(recipe: Recipe, code: int, said: Path) -> None:
    """Print the stage's own last line; of one that has failed, what it has said of the error."""
    text = said.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    if code in (0, EXIT_PREEMPTED, EXIT_INTERRUPTED):
        for line in [line for line in text.split("\n") if line.startswith(f"{recipe.title}: ")][-1:]:
            say(line)
        said.unlink()
        return
    lines = [line for line in text.split("\n") if line.strip() and "%|" not in line]  # which bars have
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    lines = lines[errors[-1] :][:TOLD_LINES] if errors else lines[-TOLD_LINES:]
    lines.append(f"all that it said: {said}")
    say("\n".join(f"{recipe.title} | {line}" for line in lines), sys.stderr)


# ------------------------------------------------------------------ what the terminal shows


@contextmanager
def _screen() -> Iterator[Callable[[_Board, bool], None]]:
    """Shows a board below the lines that are printed meanwhile; where the output is no terminal, a line of
    counts when a stage has ended."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from launch.live import picture_of
    from launch.show import terminal

    console = terminal()
    if not console.is_terminal:
        yield lambda board, ended: print(f"  {board}", flush=True) if ended else None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(board: _Board, ended: bool) -> None:
            stages = {r.title: (stage_folder(r), board.began[r.title]) for r in board.running.values()}
            live.update(Group(picture_of(stages), Text(str(board), "bold")), refresh=True)

        yield show
