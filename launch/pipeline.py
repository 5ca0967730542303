"""A stage of a pipeline: whether its recipe is right, its command line, and how it is run and waited for."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from data.did_you_mean import did_you_mean
from data.processes import EXPECTED
from data.recipe import OWN_KEYS, PLACE_KEYS, SEED, Recipe, RecipeError, load_recipe
from data.run_folder import plan, read_manifest, stage_folder
from data.stage import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, configure
from launch.cause import in_words, oom_kills, shell_code
from launch.machines import ATTEMPT, END_SECONDS, RESTARTS_LEFT, wait_for_the_end_of_machine_0
from launch.stages import find_stage
from launch.stop_requests import StopRequests

ACCELERATE_CONFIGS = Path(__file__).parent / "accelerate"
Run = Callable[[Sequence[str], Mapping[str, str]], tuple[int, bool]]
"""Runs a command in an environment; returns its code, and whether it was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which stages of a pipeline to run: all, some, or from one on."""

    only: Sequence[str] = ()
    first: str | None = None

    def choose(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """The chosen recipes, in the order of the pipeline.

        Raises:
            RecipeError: no stage of that name, or both ways to choose at once.
        """
        if self.only and self.first is not None:
            raise RecipeError(
                "--from: takes all stages from one on, --only those that it names; give one of the two"
            )
        names = [recipe.name for recipe in recipes]
        for name in (*self.only, *([] if self.first is None else [self.first])):
            if name not in names:
                raise RecipeError(f"{recipes[0].path.parent}: no stage {name!r}; stages: {', '.join(names)}")
        if self.only:
            return [recipe for recipe in recipes if recipe.name in self.only]
        return list(recipes[names.index(self.first) if self.first else 0 :])


def check_stage(recipe: Recipe, overrides: Sequence[str] = ()) -> tuple[Any, ...]:
    """Check a recipe against its stage's config classes and launcher, importing only those.

    Returns:
        the configs, as one process has them that stands for all.

    Raises:
        RecipeError: what is wrong, with file, key and fix.
    """
    try:
        stage = find_stage(recipe.stage)
    except ValueError as error:
        raise recipe.error(str(error)) from error
    stage_command(recipe, overrides)
    classes = stage.config_classes()
    return configure(_as_if_launched(recipe, classes), classes, overrides)[1]


def _as_if_launched(recipe: Recipe, classes: Sequence[type]) -> Recipe:
    """The recipe for this process alone, which has neither the GPUs that its bf16 needs nor the other
    processes among which TRL divides a generation: it stands for all of them."""
    fields = {field.name: field for cls in classes for field in dataclasses.fields(cls)}
    changes: dict[str, Any] = {"use_cpu": True} if "use_cpu" in fields else {}
    if "num_generations" in fields:
        for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            changes[key] = recipe.fields.get(key, fields[key].default) * processes(recipe)
    return dataclasses.replace(recipe, fields={**recipe.fields, **changes})


def processes(recipe: Recipe) -> int:
    """How many processes the recipe's launch starts, over all machines."""
    import yaml

    if not is_launched(recipe):
        return 1
    own = recipe.launch.get("num_processes")
    return int(own or yaml.safe_load(launch_config(recipe).read_text(encoding="utf-8"))["num_processes"])


def is_launched(recipe: Recipe) -> bool:
    """Whether the stage is started through accelerate's launcher."""
    stage = find_stage(recipe.stage)
    return stage.launched or (stage.parallel and bool(recipe.launch))


def launch_config(recipe: Recipe) -> Path:
    """The accelerate config of a recipe's launch.

    Raises:
        RecipeError: there is none of that name.
    """
    config = ACCELERATE_CONFIGS / f"{recipe.launch.get('config', 'cpu')}.yaml"
    if not config.is_file():
        known = ", ".join(sorted(path.stem for path in ACCELERATE_CONFIGS.glob("*.yaml")))
        raise recipe.error(f"launch: no launch config {config.stem!r}; there are {known}")
    return config


def stage_command(recipe: Recipe, overrides: Sequence[str] = ()) -> list[str]:
    """The command line that runs a stage.

    Raises:
        RecipeError: `launch:` on a stage that runs as one process, or an unknown launch config.
    """
    stage = find_stage(recipe.stage)
    arguments = ["-m", stage.module, "--config", str(recipe.path), *_launch_flags(recipe), *overrides]
    if not is_launched(recipe):
        if recipe.launch:
            raise recipe.error(f"launch: stage {recipe.stage!r} runs as one process; remove the key")
        return [sys.executable, *arguments]
    _check_launch(recipe)
    options = {key: value for key, value in recipe.launch.items() if key not in OWN_KEYS}
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    launcher = [sys.executable, "-m", "launch.accelerated", "--config_file", str(launch_config(recipe))]
    return [*launcher, *flags, *arguments]


def _check_launch(recipe: Recipe) -> None:
    """Refuse options that accelerate's launcher does not have: it would take them for the program to start.

    Raises:
        RecipeError: names the key, and the nearest one or the fix.
    """
    for key in ("num_processes", "num_machines"):
        count = recipe.launch.get(key, 1)
        if not isinstance(count, int) or count < 1:
            raise recipe.error(f"launch: {key}: {count!r} is not a number of at least 1")
    for key in ("restarts", "stall_seconds"):
        count = recipe.launch.get(key) or 0
        if not isinstance(count, int | float) or count < 0:
            raise recipe.error(f"launch: {key}: {count!r} is not a number of at least 0")
    if recipe.launch.get("mixed_precision") is False:
        raise recipe.error('launch: mixed_precision: YAML reads a bare no as false; write "no" in quotes')
    odd = recipe.launch.keys() - {*OWN_KEYS, *PLACE_KEYS, "num_processes", "mixed_precision"}
    if not odd:
        return
    from accelerate.commands.launch import launch_command_parser

    known = vars(launch_command_parser().parse_args(["-"]))
    for key in sorted(odd):
        if key not in known:
            hint = did_you_mean(key, [*known, *OWN_KEYS], "see `accelerate launch --help`")
            raise recipe.error(f"launch: accelerate has no option {key!r}; {hint}")
        if isinstance(known[key], bool):
            raise recipe.error(f"launch: {key} is a switch; write a file of launch/accelerate that has it")


def _launch_flags(recipe: Recipe) -> list[str]:
    """What the command line has put in place of the file's `launch:`, for the stage to know it too."""
    in_file = load_recipe(recipe.path).launch
    changed = {key: value for key, value in recipe.launch.items() if in_file.get(key) != value}
    return [part for key, value in changed.items() for part in (f"--{_FLAG.get(key, key)}", str(value))]


_FLAG = {"config": "launch"}


def is_finished(recipe: Recipe) -> bool:
    """Whether nothing is to be done; a stage that cannot tell, since an input is not there yet, is not.

    Raises:
        RecipeError: its folder belongs to another recipe.
    """
    try:
        return plan(recipe).state == "finished"
    except RecipeError:
        manifest = read_manifest(stage_folder(recipe))
        if manifest is not None and manifest["name"] != recipe.name:
            raise
        return False  # an input is not there yet; the stage itself will say what is wrong if it still is


def say(line: str, to: TextIO | None = None) -> None:
    """Print a line in one piece: stages side by side are looked after by threads."""
    print(f"{line}\n", end="", file=to, flush=True)


def run_attended(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bool]:
    """Run a command in this terminal."""
    with StopRequests() as stop:
        return _wait(stop.start(command, environment)), stop.made


def run_or_skip(recipe: Recipe, todo: Container[str], run: Run = run_attended) -> int:
    """Run a stage of a pipeline unless it is finished, which one may be whose title is not in `todo`.
    Returns its exit code."""
    if recipe.title not in todo and is_finished(recipe):
        say(f"= {recipe.title}: finished -> {stage_folder(recipe)}")
        return 0
    return run_recipe(recipe, run=run)


def run_recipe(recipe: Recipe, overrides: Sequence[str] = (), run: Run = run_attended) -> int:
    """Run one stage and wait for it; start it again when its processes died, up to `restarts` of its launch.
    Returns its exit code."""
    code = _run_once(recipe, overrides, run)
    for attempt in range(int(recipe.launch.get("restarts") or 0)):
        if code in (0, EXIT_USER_ERROR, EXIT_PREEMPTED, EXIT_INTERRUPTED):
            break
        say(f"> {recipe.title}: ended with code {code}; restart {attempt + 1}")
        if recipe.launch.get("machine_rank"):
            port = int(recipe.launch.get("main_process_port", 29500))
            address = (str(recipe.launch.get("main_process_ip")), port)
            wait_for_the_end_of_machine_0(address, stage_folder(recipe), attempt)
        code = _run_once(recipe, overrides, run, attempt + 1)
    return code


def _run_once(recipe: Recipe, overrides: Sequence[str], run: Run, attempt: int = 0) -> int:
    say(f"> {recipe.title}")
    environment = {**os.environ, **recipe.environment, "TOKENIZERS_PARALLELISM": "false"}
    left = int(recipe.launch.get("restarts") or 0) - attempt
    environment |= {EXPECTED: str(processes(recipe)), ATTEMPT: str(attempt), RESTARTS_LEFT: str(left)}
    before = oom_kills()
    code, asked = run(stage_command(recipe, overrides), environment | {SEED: str(recipe.copy)})
    if code < 0 and not asked:  # of a stage without a launcher, which would have said so
        say(f"error: the process {in_words(code, before)}", sys.stderr)
    code = shell_code(code)
    return EXIT_PREEMPTED if asked and code not in (0, EXIT_USER_ERROR) else code


def _wait(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:  # the stage got the signal too: let it close its folder
        try:
            process.wait(timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            end(process, seconds=0)
        return EXIT_INTERRUPTED


def end(process: subprocess.Popen, seconds: float = END_SECONDS) -> None:
    """Ask a process to end, give it so many seconds (0: do not ask), and kill what is left of it and of all
    that it has started: a launcher's processes are in sessions of their own and outlive it."""
    import psutil

    if process.poll() is not None:
        return
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended just now
        return
    if seconds:
        process.terminate()
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(timeout=seconds)
    process.kill()
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def run_single(stage: str, recipe: Recipe, overrides: Sequence[str]) -> int:
    """`slowthink <stage> --config file`: check and run one recipe.

    Raises:
        RecipeError: the file is for another stage, or a mistake in it.
    """
    if recipe.stage != stage:
        raise recipe.error(f"stage: this recipe is for {recipe.stage!r}; run `slowthink {recipe.stage}`")
    return run_recipe(recipe, overrides)
