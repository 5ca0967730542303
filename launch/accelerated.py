"""`accelerate launch` that ends with the stage's own exit code, without a traceback of the launcher."""

from __future__ import annotations

import signal
import subprocess
import sys

from launch.stop_requests import pass_on_to_children


def main() -> None:
    """Run accelerate's launcher with this process's arguments.

    Ctrl-C is for the stage, which gets the signal too and closes its run folder; the launcher waits for it.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    pass_on_to_children()
    from accelerate.commands.launch import main as launch

    try:
        launch()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except Exception as error:
        failure = getattr(error, "get_first_failure", None)  # torch's ChildFailedError, of several processes
        if failure is None:
            raise
        sys.exit(failure()[1].exitcode)


if __name__ == "__main__":
    main()
