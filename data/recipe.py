"""Recipes: one flat YAML file per stage, checked before anything is loaded.

`stage:` names the stage, `launch:` says how it runs, everything else are fields of that stage's dataclasses,
parsed by TRL's TrlParser. `run:03_curate` in a value means the output folder of that stage of the same
pipeline.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import shlex
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.did_you_mean import did_you_mean
from data.field_values import describe, fits, is_required

RUN_PREFIX = "run:"
OWN_KEYS = ("config", "restarts", "stall_seconds")
"""Keys of `launch:` that are not accelerate's: the file of launch/accelerate, how often a launch whose
processes died is started again, and after how many seconds without progress a process ends itself."""
PLACE_KEYS = (
    "restarts",
    "stall_seconds",
    "num_machines",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
)
"""Keys of `launch:` that cannot change a result."""
PLACE_FIELDS = ("output_dir", "vllm_server_base_url")
"""Fields that cannot: where the stage writes, and where the server is that generates."""

SEED = "SLOWTHINK_SEED"
"""Number of the copy of a pipeline that its stages belong to: see `Recipe.copy`."""


class RecipeError(ValueError):
    """A mistake in a recipe: the message names file, key and the fix."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe file, read but not yet checked against its stage."""

    path: Path
    stage: str
    launch: dict[str, Any]
    """How the stage is started: `config` (a file of launch/accelerate without .yaml), options of accelerate
    launch and OWN_KEYS."""
    environment: dict[str, str]
    fields: dict[str, Any]
    copy: int = 0
    """The same pipeline with other seeds: `seed` is raised by so much, and the run folder is
    runs/<pipeline>.seed<copy>. 0 is the recipe as it stands."""

    @property
    def pipeline(self) -> str:
        name = self.path.resolve().parent.name
        return f"{name}.seed{self.copy}" if self.copy else name

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        """Its name, with the pipeline's where that has copies."""
        return f"{self.pipeline}/{self.name}" if self.copy else self.name

    @property
    def copy_variable(self) -> str:
        """What stands before a command for it to be about this copy."""
        return f"{SEED}={self.copy} " if self.copy else ""

    @property
    def run_command(self) -> str:
        """What to type to run its pipeline."""
        return f"{self.copy_variable}slowthink run {shlex.quote(str(self.path.parent))}"

    @property
    def hash(self) -> str:
        """Changes when anything changes that can change the result."""
        fields = {key: value for key, value in self.fields.items() if key not in PLACE_FIELDS}
        launch = {key: value for key, value in self.launch.items() if key not in PLACE_KEYS}
        text = json.dumps([self.stage, launch, fields], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def error(self, message: str) -> RecipeError:
        return RecipeError(f"{self.path}: {message}")


def runs_root() -> Path:
    """Where run folders are: $SLOWTHINK_RUNS, else ./runs."""
    return Path(os.environ.get("SLOWTHINK_RUNS", "runs"))


def copy_number() -> int:
    """Of $SLOWTHINK_SEED; 0 without it.

    Raises:
        RecipeError: it is no number from 0 on.
    """
    text = os.environ.get(SEED) or "0"
    if not text.isdecimal():
        raise RecipeError(f"{SEED}: {text!r} is no number from 0 on; every `seed` is raised by it")
    return int(text)


def load_recipe(path: Path, copy: int | None = None) -> Recipe:
    """Read a recipe file.

    Args:
        copy: see `Recipe.copy`; $SLOWTHINK_SEED says it otherwise.
    Raises:
        RecipeError: missing file, not a YAML mapping, no `stage:`, a malformed `launch:` or `env:`, an
            `output_dir:` that all copies would share.
    """
    import yaml

    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("stage"), str):
        raise RecipeError(
            f"{path}: a recipe is a YAML mapping with a `stage:` line, for example `stage: sft`"
        )
    fields = dict(content)
    stage = fields.pop("stage")
    launch = fields.pop("launch", None) or {}
    environment = fields.pop("env", None) or {}
    if isinstance(launch, str):
        launch = {"config": launch}
    if not isinstance(launch, dict) or (launch and not isinstance(launch.get("config"), str)):
        raise RecipeError(f"{path}: launch: write `launch: zero3`, or a mapping with `config: zero3`")
    if not isinstance(environment, dict):
        raise RecipeError(f"{path}: env: must be a mapping of variable to value")
    environment = {str(key): str(value) for key, value in environment.items()}
    copy = copy_number() if copy is None else copy
    if copy and "output_dir" in fields:
        raise RecipeError(f"{path}: output_dir: each copy (--seeds) has a folder of its own; remove the key")
    if copy and isinstance(fields.get("seed"), int):
        fields["seed"] += copy
    return Recipe(path=path, stage=stage, launch=launch, environment=environment, fields=fields, copy=copy)


def load_pipeline(folder: Path, copy: int | None = None) -> list[Recipe]:
    """The recipes of a pipeline folder in the order of their names.

    Raises:
        RecipeError: no such folder, or no recipe in it.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such recipe folder")
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise RecipeError(f"{folder}: holds no recipe (*.yaml)")
    return [load_recipe(path, copy) for path in paths]


def check_keys(recipe: Recipe, keys: Iterable[str], config_classes: Sequence[type]) -> None:
    """Refuse keys that no config class has.

    Raises:
        RecipeError: names the key and the nearest valid one.
    """
    known = {f.name: f for cls in config_classes for f in dataclasses.fields(cls) if f.init}
    for key in keys:
        if key in known:
            continue
        hint = did_you_mean(key, known, f"see `slowthink {recipe.stage} --help` for the valid keys")
        raise recipe.error(f"unknown key {key!r} for stage {recipe.stage!r}; {hint}")


def check_recipe(recipe: Recipe, config_classes: Sequence[type], overridden: Container[str] = ()) -> None:
    """Check every key and the type of every value of a recipe against its stage's config classes.

    `overridden` are keys that the command line gives, which the file may lack.

    Raises:
        RecipeError: unknown key, wrong type, or a required key that is missing.
    """
    check_keys(recipe, [key for key in recipe.fields if key != "output_dir"], config_classes)
    for cls in config_classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in recipe.fields:
                value = recipe.fields[field.name]
                if not fits(value, hints[field.name]):
                    raise recipe.error(f"{field.name}: {value!r} is not {describe(hints[field.name])}")
            elif is_required(field) and field.name not in overridden:
                raise recipe.error(f"key {field.name!r} is missing; stage {recipe.stage!r} needs it")


def map_values(value: Any, change: Callable[[str], Any]) -> Any:
    """`value` with every string in it (also inside lists and mappings) replaced by `change(string)`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_values(v, change) for v in value]
    if isinstance(value, dict):
        return {k: map_values(v, change) for k, v in value.items()}
    return value


def strings(value: Any) -> Iterator[str]:
    """Every string inside lists and mappings of `value`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def references(recipe: Recipe) -> list[str]:
    """Names of the stages whose output this recipe reads, in order.

    Raises:
        RecipeError: a `run:` reference that names no other stage of the pipeline.
    """
    names = [s.removeprefix(RUN_PREFIX) for s in strings(recipe.fields) if s.startswith(RUN_PREFIX)]
    stages = [p.stem for p in sorted(recipe.path.parent.glob("*.yaml"))]
    earlier = stages[: stages.index(recipe.name)] if recipe.name in stages else stages
    for name in names:
        if name not in earlier:
            near = difflib.get_close_matches(name, earlier, n=1, cutoff=0.3)
            hint = (
                f"did you mean {RUN_PREFIX}{near[0]}?"
                if near
                else f"earlier stages: {', '.join(earlier) or 'none'}"
            )
            raise recipe.error(f"{RUN_PREFIX}{name} is not an earlier stage of this pipeline; {hint}")
    return list(dict.fromkeys(names))


def raised_default_seed(recipe: Recipe, config_classes: Iterable[type]) -> dict[str, int]:
    """The seed of a stage of a copy whose recipe has none: what its config class has, raised."""
    fields = (field for cls in config_classes for field in dataclasses.fields(cls))
    defaults: list[Any] = [field.default for field in fields if field.name == "seed"]
    if not recipe.copy or "seed" in recipe.fields:
        return {}
    return {"seed": defaults[0] + recipe.copy} if defaults else {}


def resolve(recipe: Recipe, pipeline_folder: Path) -> dict[str, Any]:
    """The recipe's fields with every `run:` reference replaced by that stage's output folder."""

    def folder_of(text: str) -> str:
        return str(pipeline_folder / text.removeprefix(RUN_PREFIX)) if text.startswith(RUN_PREFIX) else text

    return map_values(recipe.fields, folder_of)


def parse(
    recipe: Recipe, fields: dict[str, Any], config_classes: Sequence[Any], overrides: Sequence[str]
) -> tuple:
    """Build the config objects from resolved fields and `--key value` overrides, with TRL's parser.

    Raises:
        RecipeError: unknown override, a value of the wrong type, or one that a config class refuses.
    """
    from trl import TrlParser

    keys = [o.removeprefix("--").partition("=")[0] for o in overrides if o.startswith("--")]
    check_keys(recipe, keys, config_classes)
    parser = TrlParser(config_classes, prog=f"slowthink {recipe.stage}", exit_on_error=False)
    parser.set_defaults_with_config(**fields)
    try:
        return parser.parse_args_into_dataclasses(args=list(overrides), look_for_args_file=False)
    except RecipeError:
        raise
    except (
        Exception
    ) as error:  # argparse and the config classes raise many kinds; all are the recipe's fault here
        raise recipe.error(str(error)) from error
