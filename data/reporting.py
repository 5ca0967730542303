"""wandb: where runs go and how they are called; runs without an account are written to the stage's folder.

Stages that train report through the trainer's `report_to`. Of all others the rows of metrics are reported
here, where $SLOWTHINK_REPORT_TO (in the environment or in `env:` of a recipe) is wandb.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "SLOWTHINK_REPORT_TO"


def set_reporting_defaults(folder: Path) -> None:
    """Set what the user has not set: a run is called pipeline/stage, and a pipeline's runs are one group.
    With neither key nor WANDB_MODE, wandb runs offline; nobody sends telemetry."""
    stage = folder.resolve()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("WANDB_PROJECT", f"slowthink-{stage.parent.name}")
    os.environ.setdefault("WANDB_NAME", f"{stage.parent.name}/{stage.name}")
    os.environ.setdefault("WANDB_RUN_GROUP", stage.parent.name)
    if "WANDB_API_KEY" not in os.environ and not Path.home().joinpath(".netrc").is_file():
        os.environ.setdefault("WANDB_MODE", "offline")


def wants_wandb() -> bool:
    """Whether every stage is to report, those that train too.

    Raises:
        ValueError: the variable names something else.
    """
    chosen = os.environ.get(VARIABLE, "none")
    if chosen not in ("none", "wandb"):
        raise ValueError(f"{VARIABLE}: {chosen!r} is not wandb or none")
    return chosen == "wandb"


def report(folder: Path, row: Mapping[str, Any]) -> None:
    """Report a row of a stage that does not train, if that is wanted; with the first one the run begins."""
    if not wants_wandb():
        return
    import wandb

    if wandb.run is None:
        set_reporting_defaults(folder)
        wandb.init().define_metric("*", step_metric="done")
    wandb.log(dict(row))
