"""Every command that the pages show is one: its program, stage, flags, values and files exist.

What is cheap runs for real; what trains, needs GPUs or a cluster goes through the real parsers and checks as
far as the first step that would load a model. `slowthink show` and `report` run in test_tutorial.py, where
there is a finished run. A command of a kind that is not known fails.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.checks import check, check_recipe_block
from tests.docs.pages import PAGES, ROOT, blocks, commands, parse


@pytest.fixture
def readers(checkout: Path) -> Path:
    """A checkout with what the pages take for the reader's own (`PLACEHOLDERS` in checks.py)."""
    shutil.copytree(ROOT / "docs" / "examples" / "mine", checkout / "recipes" / "mine")
    shutil.copy(checkout / "recipes" / "mine" / "05_grpo.yaml", checkout / "my_recipe.yaml")
    for name in ("questions.jsonl", "held_out.jsonl"):
        (checkout / name).write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    return checkout


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("readers")
def test_commands(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        assert block.kind != "unknown", f"{block}: neither a command nor a recipe: {block.text[:80]!r}"
        if block.kind == "yaml":
            check_recipe_block(block)
    for command in commands(page):
        try:
            check(command)
        except (Exception, SystemExit) as error:
            shown = capsys.readouterr().err[-500:]
            pytest.fail(f"{command.where}: `{command}`: {type(error).__name__}: {error} {shown}")


@pytest.mark.parametrize(
    "text",
    [
        "slowthink sft --config recipes/s1/04_sft.yaml --learning_rat 2e-5",
        "slowthink sft --config recipes/s1/04_sft.yaml --learning_rate fast",
        "slowthink sft --config recipes/s1/05_sft.yaml",
        "slowthink grpo --config recipes/s1/04_sft.yaml",
        "slowthink sft --config recipes/s1/04_sft.yaml --launch zero4",
        "slowthink run recipes/s2",
        "slowthink run recipes/s1 --only 04_sfft",
        "slowthink run recipes/s1 --only 03_curate --only 04_sftt",
        "slowthink run recipes/s1 --jobs 2 --jobs 3",
        "slowthink runs recipes/s1",
        "slowthink show runs/quickstart/05_sft --rollouts",
        "slowthink show runs/quickstart/06_grpo --rolouts",
        "slowthink doctor rewards recipes/yours",
        "slowthink fetch-model smollm3",
        "python -m benchmarks.sfft",
        "python -m benchmarks.engines --quicker",
        "python -m benchmarks.curation --peer nowhere.py",
        "python -c 'import slowthink'",
        "accelerate launch --config_file zero4.yaml -m training.sft --config recipes/s1/04_sft.yaml",
        "accelerate launch --num_gpus 4 -m training.sft --config recipes/s1/04_sft.yaml",
        "make quickstrat",
        "pytest tests/nowhere",
        "pip install -e '.[gpu]'",
        "vllm serve nobody/nothing",
        "SLOWTHINK_NOTHING=1 make test",
        "curl https://example.org",
    ],
)
@pytest.mark.usefixtures("readers")
def test_a_wrong_command_is_found(text: str) -> None:
    [command] = parse(text, "docs/README.md:1")
    with pytest.raises((Exception, SystemExit)):
        check(command)
