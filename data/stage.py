"""What every stage does around its own work: parse its recipe, take its run folder, record how it ended."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import logging
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from data.heartbeat import start_heartbeat, stop_heartbeat
from data.processes import (
    SHARE,
    add_launch_flags,
    batch_sizes,
    check_world,
    is_part,
    rank,
    share,
    with_launch_flags,
    worker,
    workers,
    world,
)
from data.recipe import (
    Recipe,
    check_recipe,
    load_recipe,
    parse,
    raised_default_seed,
    references,
    resolve,
)
from data.run_folder import Plan, RunFolder, pipeline_folder, plan, read_manifest, stage_folder
from data.shares import shared_folder
from data.stage_help import stage_help
from data.stall import group_timeout

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
"""Asked to stop (SIGUSR1): started again, the stage goes on. EX_TEMPFAIL of sysexits.h."""
EXIT_LOST_PEER = 76
"""Another process of the launch, or the network, has gone: a consequence."""
EXIT_INTERRUPTED = 130


class Preempted(KeyboardInterrupt):
    """The machine is wanted back: raised at once where all work is in journals, by a training stage when its
    checkpoint is on disk (training/preemption.py)."""


def run_stage(body: Callable[..., dict[str, Any]], *config_classes: type, shares: bool = False) -> None:
    """Entry point of `python -m <stage module> --config recipe.yaml [--key value ...]`.

    `body(*configs, folder)` does the work and returns metrics. Exit codes: 0 finished (or nothing to do),
    2 a mistake of the user or a full disk (one line on stderr), 75 asked to stop by SIGUSR1, 130
    interrupted by Ctrl-C or SIGTERM, 1 a server that is gone (one line) or anything else (traceback); what
    ended with 1 may go well when started again.

    Args:
        shares: the body keeps its rows in journals and knows `worker` and `is_part`.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries about their own next versions
    options, overrides = _arguments(config_classes)
    try:
        recipe = with_launch_flags(load_recipe(options.config), options)
        check_world(recipe)
        os.environ.update(recipe.environment)
        if options.output_dir:
            recipe = dataclasses.replace(recipe, fields={**recipe.fields, "output_dir": options.output_dir})
        recipe, configs = configure(recipe, config_classes, overrides)
        gathers = not is_part()
        if share()[1] > 1 and not shares:
            raise recipe.error(
                f"{SHARE}: stage {recipe.stage!r} cannot be done in shares; unset the variable"
            )
        planned = plan(recipe, batch_sizes(configs)) if gathers or _is_finished(recipe) else None
    except ValueError as error:
        _fail(error)
    if planned is None:
        _run_part(body, configs, recipe)
    elif planned.state != "finished":
        _run_in_folder(body, configs, recipe, planned)
    elif rank() == 0:
        print(f"{recipe.title}: finished before, nothing changed -> {planned.folder}")


def _run_part(body: Callable[..., dict[str, Any]], configs: tuple, recipe: Recipe) -> None:
    """In another process than the one that keeps the run folder and finishes the stage."""
    signal.signal(signal.SIGUSR1, _preempt)
    folder = stage_folder(recipe)
    try:
        with shared_folder(recipe) if rank() == 0 else nullcontext():
            start_heartbeat(folder, recipe.launch.get("stall_seconds"))
            body(*configs, folder)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
    except Exception as error:
        if _is_known(error):
            _fail(error, f"(process {worker()} of {workers()})")
        raise
    finally:
        stop_heartbeat()
    if rank() == 0:
        number, count = share()
        print(f"{recipe.title}: share {number}/{count} is in the journals of {folder}")


def _is_finished(recipe: Recipe) -> bool:
    """What another rank than the first may ask while the first one makes the folder."""
    try:
        manifest = read_manifest(stage_folder(recipe))
        return manifest is not None and manifest["status"] == "finished" and plan(recipe).state == "finished"
    except (ValueError, OSError):  # the first process is making the folder anew, or says what is wrong
        return False


def _arguments(config_classes: Sequence[Any]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--output_dir")
    add_launch_flags(parser)
    options, overrides = parser.parse_known_args()
    if options.config is None or {"-h", "--help"} & set(overrides):
        print(stage_help(config_classes))
        sys.exit(0 if overrides else EXIT_USER_ERROR)
    return options, overrides


def configure(
    recipe: Recipe, config_classes: Sequence[type], overrides: Sequence[str]
) -> tuple[Recipe, tuple]:
    """Check the recipe and build its config objects; the returned recipe has the overrides in it.

    Raises:
        RecipeError: see `check_recipe`, `references` and `parse`.
    """
    given = {o.removeprefix("--").partition("=")[0] for o in overrides if o.startswith("--")}
    check_recipe(recipe, config_classes, overridden=given)
    references(recipe)
    fields = {**raised_default_seed(recipe, config_classes), **resolve(recipe, pipeline_folder(recipe))}
    if any("output_dir" in cls.__dataclass_fields__ for cls in config_classes):
        fields["output_dir"] = str(stage_folder(recipe))
    else:
        fields.pop("output_dir", None)
    if any("ddp_timeout" in cls.__dataclass_fields__ for cls in config_classes):
        fields = {**group_timeout(recipe.launch.get("stall_seconds")), **fields}
    configs = parse(recipe, fields, config_classes, overrides)
    overridden = {key: getattr(c, key) for c in configs for key in given if hasattr(c, key)}
    return dataclasses.replace(recipe, fields={**recipe.fields, **overridden}), configs


def _run_in_folder(
    body: Callable[..., dict[str, Any]], configs: tuple, recipe: Recipe, planned: Plan
) -> None:
    try:
        folder = RunFolder(recipe, planned, seed_of(configs))
    except (ValueError, OSError) as error:
        _fail(error)
    _log_to(folder.path / "log.txt")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGUSR1, _preempt)
    logger.info("%s: %s (%s) -> %s", recipe.name, recipe.stage, planned.reason, folder.path)
    start = time.monotonic()
    start_heartbeat(folder.path, recipe.launch.get("stall_seconds"))
    try:
        metrics = body(*configs, folder.path)
        _pass_over_signals()  # all is written, and no journal left to go on from
        stop_heartbeat()
        folder.finish(metrics, time.monotonic() - start)
    except KeyboardInterrupt as stop:
        _pass_over_signals()  # the launcher ends all when the first has ended
        folder.stop("interrupted", str(stop) or "interrupted")
        print(f"\n{recipe.title}: stopped. To go on: {recipe.run_command}", file=sys.stderr)
        sys.exit(EXIT_PREEMPTED if isinstance(stop, Preempted) else EXIT_INTERRUPTED)
    except Exception as error:
        logger.debug("failed", exc_info=True)
        _record_failure(folder, error)
        if _is_known(error):
            _fail(error, f"details in {folder.path / 'log.txt'}")
        raise
    finally:
        stop_heartbeat()
    seconds = time.monotonic() - start
    print(f"{recipe.title}: {summary(metrics)} in {seconds:.1f} s -> {folder.path}")


def seed_of(configs: Iterable[Any]) -> int | None:
    """The seed that a stage really has; None for one that draws nothing."""
    return next((config.seed for config in configs if hasattr(config, "seed")), None)


def _record_failure(folder: RunFolder, error: Exception) -> None:
    try:
        folder.stop("failed", f"{type(error).__name__}: {error}")
    except OSError as second:  # a full disk cannot hold the note either; the folder still says "running"
        logger.warning("could not record the failure in %s: %s", folder.path, second)


def summary(metrics: dict[str, Any]) -> str:
    """The numbers of a stage's metrics in one line."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v:.4g}" for k, v in numbers.items())


def _pass_over_signals() -> None:
    """A stage that closes its folder is not to be stopped; what it starts gets its signals as usual."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _preempt(*_: object) -> NoReturn:
    raise Preempted("asked to stop")


def _fail(error: Exception, more: str = "") -> NoReturn:
    """One line and no traceback: what ended the stage is known, and not a fault of this project."""
    if is_full_disk(error):
        error = OSError(f"no space left on disk ({error}); free some and start again, finished work is kept")
    if is_lost_peer(error):
        lost = f"rank {rank()} on {socket.gethostname()} has lost the connection to another process"
        print(f"{lost}: a consequence, not the cause ({str(error).splitlines()[0]:.200})", file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which the launcher ends what has not ended yet
        sys.exit(EXIT_LOST_PEER)
    print(f"error: {error}" + (f"\n{more}" if more else ""), file=sys.stderr)
    sys.exit(EXIT_FAILED if isinstance(error, ConnectionError) else EXIT_USER_ERROR)


def _is_known(error: Exception) -> bool:
    """Whether the message says it all: a mistake, a full disk, a server that our own code gave up, another
    process that is gone."""
    mistake = isinstance(error, ValueError) or type(error) is ConnectionError
    return mistake or is_full_disk(error) or is_lost_peer(error)


_LOST_PEER = re.compile(
    r"(?:closed|reset) by peer|broken pipe|(?<!the launch )(?<!DataLoader )timed out|no route to host"
    r"|connection refused|unreachable|remote process exited|ncclRemoteError|failed to recv|wait timeout",
    re.IGNORECASE,
)
"""What gloo, NCCL and torch's store say when a process, or the network, is gone; CUDA says "the launch timed
out" of a kernel of its own."""


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of one of several processes, or what it comes from, is that another one is gone."""
    first = error.__cause__ or error  # they meet for the first time in a config class
    return world() > 1 and isinstance(first, RuntimeError) and bool(_LOST_PEER.search(str(first)))


_FULL_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"
)
"""What safetensors and torch say without an errno."""


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a full disk or a used up quota."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL_DISK.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


class _LogFile(logging.FileHandler):
    """Without a traceback on the terminal for every line that a full disk does not take."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not is_full_disk(sys.exc_info()[1]):
            super().handleError(record)


def _log_to(path: Path) -> None:
    from rich.logging import RichHandler

    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    file.setLevel(logging.DEBUG)
    console = RichHandler(show_path=False, show_time=False, level=logging.INFO)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [console, file]
    for package in ("data", "rewards", "inference", "training", "evaluation", "launch"):
        logging.getLogger(package).setLevel(logging.DEBUG)
    logging.getLogger(__name__).setLevel(logging.DEBUG)
