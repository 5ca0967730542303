"""Stage `push`: a model with its card, recipes, manifests and numbers, to the hub or, first, into a folder.

Without `dry_run: false` nothing leaves the machine: `upload/` in the stage folder holds exactly what would.
Only what is listed in `MODEL_FILES` is taken from the model's folder, so optimizer states, checkpoints,
rejected rows and logs stay; paths, machines and users are taken out of everything else (see
training/local_names.py).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.stage import run_stage
from data.store import read_json, write_json
from training.lineage import StageRecord, lineage, names_to_hide, public_manifest, read_stage
from training.local_names import LocalNames
from training.model_card import model_card
from training.model_source import kind_of

logger = logging.getLogger(__name__)

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "reward_model.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    *("configuration_*.py", "modeling_*.py", "tokenization_*.py"),  # of trust_remote_code
)
"""What of a model's folder is uploaded; what else of it is in the repository, from an earlier push, goes."""
_WITH_PATHS = ("config.json", "adapter_config.json", "tokenizer_config.json", "reward_model.json")
_PATH_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path", "model_name_or_path")


@dataclass(kw_only=True)
class PushConfig:
    """Fields of stage `push`."""

    model: str
    """Stage folder of the model (run:05_sft, or run:06_plain_model of stage plain_model)."""
    repo_id: str
    """Where it goes on the hub: owner/name."""
    evaluations: list[str] = field(default_factory=list)
    """Stage folders of evaluations whose numbers the card shows (run:09_evaluate_grpo)."""
    licence: str | None = None
    """Licence of the model as the hub names them (apache-2.0, mit); the card has none where not given."""
    private: bool = True
    """Only for its owner; a repository that is there already must be so too."""
    dry_run: bool = True
    """Write what would be uploaded into `upload/` and upload nothing."""

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(f"repo_id: {error}") from error
        if self.repo_id.count("/") != 1:
            raise ValueError(f"repo_id: {self.repo_id!r} must be owner/name, for example you/reasoner-7b")


def push(config: PushConfig, folder: Path) -> dict[str, Any]:
    """Write `upload/`, and upload it where `dry_run` is false.

    Returns:
        files, bytes, stages (how many the card tells of), pushed.
    Raises:
        ValueError: a stage that is not finished, a folder without a plain model or adapter, see `upload`.
    """
    model = read_stage(Path(config.model), "model")
    kind = kind_of(model.folder, "model")
    if kind == "zero3":
        raise ValueError(
            f"model: {model.folder} is sharded by ZeRO-3; run stage plain_model on it, push that"
        )
    evaluations = [read_stage(Path(name), "evaluations") for name in config.evaluations]
    made_by = lineage([model])
    told = lineage([model, *evaluations])
    check_names(told)
    hidden = names_to_hide(told)
    target = folder / "upload"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_model(model.folder, target, hidden)
    write_records(told, [model, *evaluations], target, hidden)
    card = model_card(
        config.repo_id,
        model,
        made_by,
        evaluations,
        hidden,
        licence=config.licence,
        adapter=kind == "adapter",
    )
    (target / "README.md").write_text(str(card), encoding="utf-8")
    files = sorted(path for path in target.rglob("*") if path.is_file())
    show(files, target, config)
    if not config.dry_run:
        upload(config, target)
    return {
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "stages": len(told),
        "pushed": not config.dry_run,
    }


def check_names(records: Iterable[StageRecord]) -> None:
    """Refuse two stages of one name, as of two pipelines: their recipes would be one file.

    Raises:
        ValueError: names both folders.
    """
    found: dict[str, Path] = {}
    for record in records:
        if record.name in found:
            raise ValueError(
                f"model: stages {found[record.name]} and {record.folder} are both called {record.name}; give "
                "one of the recipes another name"
            )
        found[record.name] = record.folder


def write_model(source: Path, target: Path, hidden: LocalNames) -> None:
    """Link (or copy) the model's files, without paths in its configs."""
    for path in sorted({path for pattern in MODEL_FILES for path in source.glob(pattern)}):
        if path.name in _WITH_PATHS:
            values = read_json(path)
            write_json(
                target / path.name,
                {key: hidden.hide(each) if key in _PATH_KEYS else each for key, each in values.items()},
            )
            continue
        try:
            os.link(path, target / path.name)
        except OSError:  # another file system
            shutil.copyfile(path, target / path.name)


def write_records(
    told: Iterable[StageRecord], measured: Iterable[StageRecord], target: Path, hidden: LocalNames
) -> None:
    """Recipes and manifests of all stages, metrics of the model's and of the evaluations."""
    import yaml

    for record in told:
        (target / "recipes").mkdir(exist_ok=True)
        text = yaml.safe_dump(hidden.hide(record.recipe), sort_keys=False, allow_unicode=True)
        (target / "recipes" / f"{record.name}.yaml").write_text(text, encoding="utf-8")
        write_json(target / "manifests" / f"{record.name}.json", public_manifest(record, hidden))
    for record in measured:
        write_json(target / "metrics" / f"{record.name}.json", hidden.hide(record.metrics))


def show(files: list[Path], target: Path, config: PushConfig) -> None:
    """Print the files and their sizes, and how they get to the hub."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(title=f"{config.repo_id} ({'private' if config.private else 'public'})")
    table.add_column("file")
    table.add_column("size", justify="right")
    for path in files:
        table.add_row(path.relative_to(target).as_posix(), decimal(path.stat().st_size))
    Console().print(table)
    if config.dry_run:
        print(f"nothing was uploaded: read {target}/README.md, then run it again with dry_run: false")


def upload(config: PushConfig, target: Path) -> None:
    """Make the repository and upload the folder.

    Raises:
        ValueError: no token, no network, no right to write, or the repository is public where `private` is
            true.
    """
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not get_token():
        raise ValueError(
            "dry_run: there is no token of the hub; run `hf auth login` or set HF_TOKEN to one that may write"
        )
    api = HfApi()
    try:
        api.create_repo(config.repo_id, private=config.private, exist_ok=True)
        if config.private and not api.model_info(config.repo_id).private:
            raise ValueError(
                f"private: {config.repo_id} is there and public; make it private there or set private: false"
            )
        # transformers would load an old model.safetensors or adapter before new shards
        api.upload_folder(
            repo_id=config.repo_id,
            folder_path=target,
            commit_message="slowthink push",
            delete_patterns=list(MODEL_FILES),
        )
    except OfflineModeIsEnabled as error:
        raise ValueError("dry_run: the hub is switched off by HF_HUB_OFFLINE; unset it") from error
    except httpx.TransportError as error:
        raise ValueError(
            f"dry_run: the hub cannot be reached ({error}); run this stage where there is a network, or take "
            f"{target} there and run `hf upload {config.repo_id} upload .`"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"repo_id: the hub refuses {config.repo_id} ({' '.join(str(error).split())}); "
            "use a token that may write there"
        ) from error


if __name__ == "__main__":
    run_stage(push, PushConfig)
