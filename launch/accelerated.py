"""`accelerate launch` that ends with the stage's own exit code, without a traceback of the launcher."""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    """Run accelerate's launcher with this process's arguments."""
    from accelerate.commands.launch import main as launch

    try:
        launch()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
