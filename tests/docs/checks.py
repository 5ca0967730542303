"""How each kind of command is checked, in a working folder that has the project's files."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from data.field_values import fits
from data.processes import add_launch_flags, with_launch_flags
from data.recipe import check_keys, load_recipe
from inference.models import FETCHABLE
from launch.cli import _parser, main
from launch.pipeline import check_stage
from launch.stages import STAGES
from tests.docs.pages import ROOT, Block, Command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLACEHOLDERS = {
    "my_recipe.yaml": "a recipe of the reader's own with rewards",
    "recipes/mine": "the reader's own recipe folder: that of the tutorial",
    "questions.jsonl": "the reader's own questions, and",
    "held_out.jsonl": "those that nothing is trained on",
    "PLACEHOLDER": "what a page has in angle brackets: a folder of the reader's own",
    "FOLDER": "a folder of the reader's own",
}
"""Names that stand for something of the reader's; all other files that a command reads are the project's."""
OUTSIDE = {"runs": "what the project's own commands write", "decontaminate_util.py": "s1's own file"}
"""Begins of paths that need not be there."""


def check(command: Command) -> None:
    variables_exist(command)
    if command.words:
        assert command.words[0] in KINDS, f"there is no check for {command.words[0]}"
        KINDS[command.words[0]](command)


def check_recipe_block(block: Block) -> None:
    """Keys and values of a recipe that a page shows in part are those of its stage."""
    if not re.match(r"stage: \w+\s", block.text):
        return
    path = Path("shown.yaml")
    path.write_text(block.text)
    recipe = load_recipe(path)
    for cls in STAGES[recipe.stage].config_classes():
        hints = typing.get_type_hints(cls)
        for key in recipe.fields.keys() & hints.keys():
            assert fits(recipe.fields[key], hints[key]), f"{block}: {key}: {recipe.fields[key]!r}"
    check_keys(
        recipe, [key for key in recipe.fields if key != "output_dir"], STAGES[recipe.stage].config_classes()
    )


# ------------------------------------------------------------------ slowthink


def check_slowthink(command: Command) -> None:
    name, *arguments = command.words[1:]
    if name in STAGES:
        if arguments == ["--help"]:
            assert main([name, "--help"]) == 0
        else:
            check_stage_call(name, arguments)
        return
    options = _parser().parse_args([name, *arguments])
    refuse_repeated_options(name, arguments)
    {
        "run": check_run,
        "check": check_check,
        "doctor": check_doctor,
        "show": check_shown,
        "report": check_reported,
        "fetch-model": check_fetched,
    }[name](options, [name, *arguments])


def refuse_repeated_options(name: str, arguments: list[str]) -> None:
    """argparse takes the last of several values in silence."""
    [choices] = [a.choices for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for action in choices[name]._actions:
        times = sum(argument in action.option_strings for argument in arguments)
        assert times < 2 or isinstance(action, argparse._AppendAction), (
            f"{action.dest} is given {times} times"
        )


def check_stage_call(name: str, arguments: list[str]) -> None:
    """As `slowthink STAGE --config ...` up to the start of the stage."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output_dir")
    add_launch_flags(parser)
    options, overrides = parser.parse_known_args(arguments)
    recipe = with_launch_flags(load_recipe(options.config), options)
    assert recipe.stage == name, f"the recipe is of stage {recipe.stage}"
    check_stage(recipe, overrides)


def check_run(options: argparse.Namespace, arguments: list[str]) -> None:
    assert main([*arguments, *([] if options.dry_run else ["--dry-run"])]) == 0


def check_check(options: argparse.Namespace, arguments: list[str]) -> None:
    """For real, but for the first steps, which train."""
    if options.first_step:
        check_stage(load_recipe(options.recipe))
    else:
        assert main(arguments) == 0


def check_doctor(options: argparse.Namespace, arguments: list[str]) -> None:
    """For real; exit code 1 says that an exploit is paid."""
    assert main(arguments) in (0, 1)


def check_shown(options: argparse.Namespace, arguments: list[str]) -> None:
    """The folder is one that a recipe makes, of a stage that has what is to be shown."""
    made_by = stage_of_run(options.folder)
    assert not options.rollouts or made_by == "grpo"
    assert not options.tree or made_by == "search"


def check_reported(options: argparse.Namespace, arguments: list[str]) -> None:
    for run in options.runs:
        stage_of_run(run)


def stage_of_run(folder: Path) -> str:
    """The stage whose recipe makes runs/<pipeline>/<stage>; empty for the folder of a pipeline."""
    runs, pipeline, *stage = folder.parts
    assert runs == "runs"
    recipe = Path("recipes", pipeline.partition(".seed")[0], *stage)
    if stage:
        return load_recipe(recipe.with_suffix(".yaml")).stage
    assert recipe.is_dir(), f"no recipe makes {folder}"
    return ""


def check_fetched(options: argparse.Namespace, arguments: list[str]) -> None:
    """It downloads 93 MB."""
    assert options.name in FETCHABLE.values()


# ------------------------------------------------------------------ other programs


class Parsed(BaseException):
    """A program has read its flags."""


def check_python(command: Command) -> None:
    """A stage by its module, a benchmark up to where it has read its flags, or code that runs for real."""
    flag, what, *arguments = command.words[1:]
    if flag == "-c":
        exec(what, {})
        return
    assert flag == "-m"
    stage = next((name for name, stage in STAGES.items() if stage.module == what), None)
    if stage is not None:
        check_stage_call(stage, arguments)
        return
    for argument in arguments:
        check_path(argument)
    assert what.startswith("benchmarks.")
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: object) -> None:
        parse_args(parser, *given)  # type: ignore[arg-type]
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [what, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            runpy.run_module(what, run_name="__main__")


def check_accelerate(command: Command) -> None:
    """Flags of accelerate's own launcher, then those of the stage, which a sentence may leave out."""
    assert command.words[1] == "launch"
    words = list(command.words[2:])
    given = launch_command_parser().parse_args(words if "-m" in words else [*words, "-m", "training.sft"])
    assert given.module
    if given.config_file:
        assert Path(given.config_file).is_file()
    if "-m" in words:
        [stage] = [name for name, stage in STAGES.items() if stage.module == given.training_script]
        check_stage_call(stage, given.training_script_args)


def check_make(command: Command) -> None:
    subprocess.run([*command.words, "-n", "-o", ".venv/installed"], check=True, capture_output=True)


def check_pytest(command: Command) -> None:
    arguments = list(command.words[1:])
    if "-m" in arguments:
        marker = arguments.pop(arguments.index("-m") + 1)
        arguments.remove("-m")
        assert marker in [
            text.partition(":")[0] for text in PROJECT["tool"]["pytest"]["ini_options"]["markers"]
        ]
    for argument in arguments:
        assert Path(argument).exists(), f"no {argument}"


def check_pip(command: Command) -> None:
    assert command.words[1:3] == ("install", "-e")
    [extra] = re.findall(r"^\.\[(\w+)\]$", command.words[3])
    assert extra in PROJECT["project"]["optional-dependencies"]


def check_bash(command: Command) -> None:
    """A script: its syntax."""
    subprocess.run(["bash", "-n", command.words[1]], check=True)
    for argument in command.words[2:]:
        check_path(argument)


def check_vllm(command: Command) -> None:
    """vLLM is not installed here: the model is one that a recipe beside the page names."""
    assert command.words[1] == "serve"
    recipes = (ROOT / command.where.partition(":")[0]).parent.glob("*.yaml")
    assert any(command.words[2] in path.read_text() for path in recipes)


def check_source(command: Command) -> None:
    assert Path(command.words[1]).is_file(), f"no {command.words[1]}"


def check_file_command(command: Command) -> None:
    """cp, head, tail: they run in test_tutorial.py; their first file is there."""
    [path] = [word for word in command.words[1:] if Path(word).suffix or "/" in word][:1]
    assert Path(path).exists() or command.where.startswith("docs/tutorial.md"), f"no {path}"


def variables_exist(command: Command) -> None:
    """Environment variables are read by the project, or by what it runs."""
    shown = [*command.variables, *(command.words[1:] if command.words[:1] == ("export",) else ())]
    for name in [text.partition("=")[0] for text in shown]:
        folders = "benchmarks data evaluation inference launch rewards training tests/inference tests/launch"
        files = [path for folder in folders.split() for path in (ROOT / folder).rglob("*.*")]
        read = any(name.encode() in path.read_bytes() for path in files)
        assert read or name == "VLLM_SERVER_DEV_MODE", f"nothing reads ${name}"


def check_path(argument: str) -> None:
    """What looks like a path is a file here, one of the reader's, or one that is made elsewhere."""
    if "/" in argument or argument.endswith((".py", ".yaml", ".jsonl")):
        known = argument in PLACEHOLDERS or argument.startswith(tuple(OUTSIDE))
        assert known or os.path.exists(argument), f"no {argument}"


KINDS: dict[str, Callable[[Command], None]] = {
    "slowthink": check_slowthink,
    "python": check_python,
    "accelerate": check_accelerate,
    "make": check_make,
    "pytest": check_pytest,
    "pip": check_pip,
    "bash": check_bash,
    "vllm": check_vllm,
    "source": check_source,
    "cp": check_file_command,
    "head": check_file_command,
    "tail": check_file_command,
    "export": variables_exist,
}
