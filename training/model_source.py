"""What a folder that training left holds: a plain model, an adapter, or the shards of ZeRO-3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.run_folder import read_manifest
from inference.models import locate

Kind = Literal["adapter", "zero3", "plain"]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights are and of which kind they are."""

    model: str
    """Folder, or hub id."""
    kind: Kind
    step: int | None
    """Of a checkpoint."""


def find_source(source: str, checkpoint: int | None = None, key: str = "source") -> Source:
    """The folder with the weights, and what they are.

    Args:
        key: the recipe's key that names it.
    Raises:
        ValueError: no such folder, a stage or checkpoint that was not written to its end, or no model there.
    """
    try:
        folder = Path(locate_any(source))
    except ValueError as error:
        raise ValueError(str(error).replace("model_name_or_path:", f"{key}:", 1)) from error
    if not folder.is_dir():
        if checkpoint is not None:
            raise ValueError(f"checkpoint: {source} is no stage folder; drop the key")
        return Source(model=source, kind="plain", step=None)
    if checkpoint is not None:
        folder /= f"checkpoint-{checkpoint}"
    step = checkpoint_step(folder)
    if step is None:
        _check_finished(folder, key)
    return Source(model=str(folder), kind=kind_of(folder, key), step=step)


def locate_any(model: str) -> str:
    """As `locate`, also for a folder without a tokenizer, which a checkpoint can be.

    Raises:
        ValueError: a path that does not exist.
    """
    return model if Path(model).is_dir() else locate(model)


def checkpoint_step(folder: Path) -> int | None:
    """The step of a complete `checkpoint-N`; None for a folder of another name.

    Raises:
        ValueError: the checkpoint does not exist, was not written to its end (names those that were) or lost
            a file since.
    """
    from training.checkpoints import MARKER, damage

    number = folder.name.removeprefix("checkpoint-")
    if number == folder.name or not number.isdecimal():
        return None
    if (folder / MARKER).is_file():
        fault = damage(folder)
        if fault:
            raise ValueError(f"checkpoint: {folder} is damaged ({fault}); take another one")
        return int(number)
    names = [path.parent.name for path in folder.parent.glob(f"checkpoint-*/{MARKER}")]
    steps = [name.removeprefix("checkpoint-") for name in names]
    complete = sorted(int(step) for step in steps if step.isdecimal())
    what = "was cut short while it was written" if folder.is_dir() else "does not exist"
    fix = f"complete ones are {complete}" if complete else f"{folder.parent} has no complete one"
    if folder.is_dir():
        fix += "; if another trainer wrote it whole, give the folder another name"
    raise ValueError(f"checkpoint: {folder} {what} ({MARKER} is missing); {fix}")


def _check_finished(folder: Path, key: str) -> None:
    """Refuse the model of a stage that is not finished."""
    manifest = read_manifest(folder)
    if manifest is not None and manifest["status"] != "finished":
        raise ValueError(
            f"{key}: stage {manifest['name']} in {folder} is not finished ({manifest['status']}); "
            f"run it to its end{_checkpoint_hint(folder, key)}"
        )


def _checkpoint_hint(folder: Path, key: str) -> str:
    """Which key of stage plain_model takes a checkpoint, where the folder has one."""
    from training.checkpoints import newest_complete_checkpoint

    newest = newest_complete_checkpoint(folder)
    if newest is None:
        return ""
    step = f"`checkpoint: {newest.name.removeprefix('checkpoint-')}`"
    return f", or set {step}" if key == "source" else f", or run stage plain_model on it with {step}"


def kind_of(folder: Path, key: str = "source") -> Kind:
    """What a folder that recipe key `key` names holds: an adapter, whole weights, or the shards of ZeRO-3.

    Raises:
        ValueError: nothing of these.
    """
    if (folder / "adapter_config.json").is_file() and any((folder / n).is_file() for n in ADAPTER_WEIGHTS):
        return "adapter"
    has_config = (folder / "config.json").is_file()
    if has_config and any((folder / name).is_file() for name in WEIGHTS):
        return "plain"
    if has_config and (folder / "latest").is_file():
        return "zero3"
    raise ValueError(
        f"{key}: {folder} holds no model: it needs config.json with {WEIGHTS[0]}, adapter_config.json with "
        f"{ADAPTER_WEIGHTS[0]}, or config.json with the shards of ZeRO-3 (`latest`); give the folder of a "
        f"training stage{_checkpoint_hint(folder, key)}"
    )
