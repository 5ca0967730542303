"""`accelerate launch` that ends with the stage's own exit code, and with one line on who ended first and why
in place of a traceback of the launcher."""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from data.stage import EXIT_FAILED, EXIT_INTERRUPTED
from launch.cause import (
    SECONDS_FOR_OTHERS,
    Cause,
    cause_elsewhere,
    end_of_group,
    find_cause,
    last_heard,
    note_cause,
    oom_kills,
)
from launch.stop_requests import pass_on_to_children


def main() -> None:
    """Run accelerate's launcher with this process's arguments.

    Ctrl-C is for the stage, which gets the signal too and closes its run folder; the launcher waits for it.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    pass_on_to_children()
    from accelerate.commands.launch import main as launch
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _silence_torchrun()
    machine, machines, folder = _place(sys.argv[1:])
    before = oom_kills()
    try:
        launch()
    except subprocess.CalledProcessError as error:  # of a stage of one process
        sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)
    except ChildFailedError as error:
        _end(error.failures, before, machine, folder if machines > 1 else None)
    except SignalException:  # SIGTERM to this process, which torchrun has passed on
        sys.exit(EXIT_INTERRUPTED)
    except (DistError, ConnectionError) as error:
        if machines == 1:
            raise
        print(f"error: machine {machine} of {machines}: {_unreachable(error, machine)}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _end(
    failures: Mapping[int, Any], oom_kills_before: int | None, machine: int, folder: Path | None
) -> NoReturn:
    """Say what ended the launch, and end so.

    Args:
        folder: of the stage, where other machines have a part in it.
    """
    for failure in failures.values():
        end_of_group(failure.pid)
    cause = find_cause(failures, oom_kills_before)
    if folder is not None:
        note_cause(folder, machine, cause)
        if cause.is_consequence:
            cause = _told_elsewhere(folder) or cause
    if cause.what and not cause.is_consequence:
        print(f"error: {cause}", file=sys.stderr)
    sys.exit(cause.code)


def _told_elsewhere(folder: Path) -> Cause | None:
    cause = cause_elsewhere(folder)
    if cause is None:
        print(
            f"error: no machine has told a cause within {SECONDS_FOR_OTHERS:.0f} s: one of them, or the "
            f"network, is gone; {last_heard(folder)}",
            file=sys.stderr,
        )
    return cause


def _unreachable(error: Exception, machine: int) -> str:
    if machine == 0:
        return f"the other machines have not come, or the port is taken: {error}"
    return (
        "machine 0 was not reached: is its launch running, are --main_process_ip and --main_process_port its "
        f"own, and open in its firewall? ({str(error).splitlines()[0]})"
    )


def _place(arguments: list[str]) -> tuple[int, int, Path | None]:
    """Number of this machine, how many there are, and the folder of the stage that is launched."""
    from data.recipe import load_recipe
    from data.run_folder import stage_folder

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--machine_rank", type=int, default=0)
    parser.add_argument("--num_machines", type=int, default=1)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--output_dir", type=Path)
    options, _ = parser.parse_known_args(arguments)
    folder = options.output_dir or (stage_folder(load_recipe(options.config)) if options.config else None)
    return options.machine_rank, options.num_machines, folder


def _silence_torchrun() -> None:
    """What it logs of processes that ended is told in one line."""
    for part in ("agent.server.api", "multiprocessing.api"):  # whose loggers have levels of their own
        importlib.import_module(f"torch.distributed.elastic.{part}")
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
