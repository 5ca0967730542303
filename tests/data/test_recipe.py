from __future__ import annotations

import enum
import typing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.field_values import fits
from data.recipe import RecipeError, check_recipe, load_pipeline, load_recipe, parse, references, resolve


class Schedule(enum.Enum):
    COSINE = "cosine"


@dataclass(kw_only=True)
class Config:
    """A stage's config."""

    problems: str
    learning_rate: float = 1e-5
    steps: int = 10
    packing: bool = False
    mode: typing.Literal["fast", "slow"] = "fast"
    schedule: Schedule | str = Schedule.COSINE
    sources: list[dict] = field(default_factory=list)
    limit: int | None = None
    order: typing.Optional[typing.Literal["up", "down"]] = None  # noqa: UP045 - as some of TRL's are written

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} must be at least 1")


def write(folder: Path, text: str, name: str = "02_stage.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_is_parsed_with_overrides(tmp_path: Path) -> None:
    write(tmp_path / "p", "stage: collect\n", "01_first.yaml")
    path = write(
        tmp_path / "p", "stage: x\nlaunch: zero3\nproblems: run:01_first\nlearning_rate: 1e-4\nlimit: null\n"
    )
    recipe = load_recipe(path)
    assert (recipe.pipeline, recipe.name, recipe.launch) == ("p", "02_stage", {"config": "zero3"})
    check_recipe(recipe, [Config])
    assert references(recipe) == ["01_first"]
    (config,) = parse(recipe, resolve(recipe, Path("runs/p")), [Config], ["--steps", "3"])
    assert config == Config(problems="runs/p/01_first", learning_rate=1e-4, steps=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 1", "unknown key 'learning_rat'.*did you mean 'learning_rate'"),
        ("steps: many", "steps: 'many' is not of type int"),
        ("steps: 1.5", "steps"),
        ("steps: true", "steps"),
        ("packing: 1", "packing: 1 is not of type bool"),
        ("packing: 'yes'", "packing"),
        ("mode: medium", "mode: 'medium' is not one of 'fast', 'slow'"),
        ("sources: {a: 1}", "sources"),
        ("sources: [a]", "sources"),
        ("learning_rate: fast", "learning_rate"),
        ("limit: none", "limit: 'none' is not of type int or null$"),
        ("schedule: 3", "schedule: 3 is not one of 'cosine' or str$"),
        ("order: 3", "order: 3 is not one of 'up', 'down' or null$"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path: Path, line: str, message: str) -> None:
    recipe = load_recipe(write(tmp_path, f"stage: x\nproblems: p\n{line}\n"))
    with pytest.raises(RecipeError, match=rf"02_stage\.yaml: {message}"):
        check_recipe(recipe, [Config])


def test_missing_key_is_named_unless_the_command_line_gives_it(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "stage: x\n"))
    with pytest.raises(RecipeError, match="key 'problems' is missing"):
        check_recipe(recipe, [Config])
    check_recipe(recipe, [Config], overridden={"problems"})


def test_what_a_config_refuses_names_the_file(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "stage: x\nproblems: p\nsteps: 0\n"))
    with pytest.raises(RecipeError, match=r"02_stage\.yaml: steps: 0 must be at least 1"):
        parse(recipe, recipe.fields, [Config], [])


@pytest.mark.parametrize("override", [["--step", "3"], ["--steps", "x"], ["--mode", "medium"]])
def test_wrong_overrides_are_refused(tmp_path: Path, override: list[str]) -> None:
    recipe = load_recipe(write(tmp_path, "stage: x\nproblems: p\n"))
    with pytest.raises(RecipeError, match=override[0].removeprefix("--")):
        parse(recipe, recipe.fields, [Config], override)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "a: [", "steps: 1\n", "stage: 3\n", "stage: x\nlaunch: [1]\n", "\x00"]
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"02_stage\.yaml"):
        load_recipe(write(tmp_path, text))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="no such recipe folder"):
        load_pipeline(tmp_path / "absent")
    with pytest.raises(RecipeError, match="holds no recipe"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("target", ["01_frist", "02_stage", "03_later"])
def test_references_must_be_earlier_stages(tmp_path: Path, target: str) -> None:
    write(tmp_path, "stage: x\n", "01_first.yaml")
    write(tmp_path, "stage: x\n", "03_later.yaml")
    recipe = load_recipe(write(tmp_path, f"stage: x\nproblems: run:{target}\n"))
    with pytest.raises(RecipeError, match="is not an earlier stage"):
        references(recipe)


def test_hash_follows_content_not_the_place(tmp_path: Path) -> None:
    place = "output_dir: o\nvllm_server_base_url: http://n3:8000\n"
    first = load_recipe(write(tmp_path / "a", f"stage: x\nproblems: p\n{place}"))
    same = load_recipe(write(tmp_path / "b", "problems: p\nstage: x\n"))
    other = load_recipe(write(tmp_path / "c", "problems: q\nstage: x\n"))
    assert first.hash == same.hash != other.hash


def test_enum_values_and_unions_fit() -> None:
    assert fits("cosine", Schedule)
    assert not fits("linear", Schedule)
    assert fits(None, int | None)
    assert fits("1e-5", float)
    assert fits([{"a": 1}], list[dict])
