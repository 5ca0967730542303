"""Environment of training runs: wandb without an account writes to the run folder; nobody sends telemetry."""

from __future__ import annotations

import os
from pathlib import Path


def set_reporting_defaults(folder: Path) -> None:
    """Set what the user has not set. With neither key nor WANDB_MODE, wandb runs offline."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("WANDB_PROJECT", f"slowthink-{folder.resolve().parent.name}")
    if "WANDB_API_KEY" not in os.environ and not Path.home().joinpath(".netrc").is_file():
        os.environ.setdefault("WANDB_MODE", "offline")
