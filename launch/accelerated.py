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
from launch.cause import Cause, end_of_group, find_cause, in_words, oom_kills, shell_code
from launch.machines import CAUSE_SECONDS, Machine, last_heard
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
    machine = _this_machine(sys.argv[1:])
    if machine:
        machine.begin()
    before = oom_kills()
    try:
        launch()
        failure = _finish(machine) if machine else None
    except subprocess.CalledProcessError as error:  # of a stage of one process
        if error.returncode < 0:
            print(f"error: the process {in_words(error.returncode, before)}", file=sys.stderr)
        sys.exit(shell_code(error.returncode))
    except ChildFailedError as error:
        _end(error.failures, before, machine)
    except SignalException:  # SIGTERM to this process, which torchrun has passed on
        cause = machine.cause_elsewhere(0) if machine else None
        if cause:
            _say(cause)
        elif machine:
            machine.end(None)  # it has no cause to tell, and nobody is to wait for one
        sys.exit(cause.code if cause else EXIT_INTERRUPTED)
    except (DistError, ConnectionError) as error:
        if machine is None:
            raise
        print(f"error: machine {machine.number}: {_unreachable(error, machine)}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    if failure:
        _say(failure)
        sys.exit(failure.code)


def _finish(machine: Machine) -> Cause | None:
    """All is well here; what may still go wrong on machine 0."""
    machine.end(None)
    return machine.failure_of_machine_0()


def _end(failures: Mapping[int, Any], oom_kills_before: int | None, machine: Machine | None) -> NoReturn:
    """Say what ended the launch, and end so."""
    for failure in failures.values():
        end_of_group(failure.pid)
    cause = find_cause(failures, oom_kills_before)
    if machine:
        machine.end(cause)
        if cause.is_consequence:
            cause = machine.cause_elsewhere() or cause
    _say(cause)
    if cause.is_consequence and machine:
        print(
            f"error: no machine has told a cause within {CAUSE_SECONDS:.0f} s: one of them, or the network, "
            f"is gone; {last_heard(machine.folder)}",
            file=sys.stderr,
        )
    sys.exit(cause.code)


def _say(cause: Cause) -> None:
    if cause.what:
        print(f"error: {cause}", file=sys.stderr)


def _unreachable(error: Exception, machine: Machine) -> str:
    if machine.number == 0:
        return f"the other machines have not come, or the port is taken: {error}"
    return (
        "machine 0 was not reached: is its launch running, are --main_process_ip and --main_process_port its "
        f"own, and open in its firewall? ({str(error).splitlines()[0]})"
    )


def _this_machine(arguments: list[str]) -> Machine | None:
    """This machine among those that launch a stage together; None where it is alone."""
    from data.recipe import load_recipe
    from data.run_folder import stage_folder

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--machine_rank", type=int, default=0)
    parser.add_argument("--num_machines", type=int, default=1)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--output_dir", type=Path)
    options, _ = parser.parse_known_args(arguments)
    if options.num_machines < 2 or options.config is None:
        return None
    return Machine(options.output_dir or stage_folder(load_recipe(options.config)), options.machine_rank)


def _silence_torchrun() -> None:
    """What it logs of processes that ended is told in one line."""
    for part in ("agent.server.api", "multiprocessing.api"):  # whose loggers have levels of their own
        importlib.import_module(f"torch.distributed.elastic.{part}")
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
