from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.schema import Attempt, Completion, Problem, problem_id
from data.store import write_attempts, write_problems
from launch.cli import main
from tests.training.grpo_runs import problems

ROOT = Path(__file__).resolve().parents[2]


def recipe(folder: Path, name: str, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed with blanks for line breaks."""
    capsys.readouterr()
    code = main(["check", *map(str, arguments)])
    return code, re.sub(r"\s+", " ", capsys.readouterr().out)


def traces(folder: Path, count: int = 24, longest: int = 40) -> str:
    made = []
    for number in range(count):
        question = f"{number}: what is {number} + 1?"
        completion = Completion(
            text="",
            thinking="x y z " * (longest if number == 5 else 1 + number % 7),
            response=f"\\boxed{{{number + 1}}}",
            finish_reason="stop",
            prompt_tokens=0,
            thinking_tokens=0,
            completion_tokens=0,
            model="m",
            seed=0,
        )
        asked = Problem(id=problem_id(question), question=question, answer=str(number + 1), source="s")
        made.append(Attempt(problem=asked, index=0, completion=completion, verdict="correct", extracted=""))
    write_attempts(folder, made, "traces")
    return str(folder)


def sft_fields(tmp_path: Path, model: Path, **changes: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "stage": "sft",
        "launch": "cpu",
        "dataset": traces(tmp_path / "traces"),
        "model_name_or_path": str(model),
        "pad_token": "<|fim_pad|>",
        "max_length": 512,
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "bf16": False,
        "report_to": "none",
        "save_total_limit": 2,
    }
    return {**defaults, **changes}


def grpo_fields(tmp_path: Path, model: Path, **changes: Any) -> dict[str, Any]:
    write_problems(tmp_path / "problems", problems())
    defaults: dict[str, Any] = {
        "stage": "grpo",
        "launch": "cpu",
        "problems": str(tmp_path / "problems"),
        "model_name_or_path": str(model),
        "rewards": ["accuracy"],
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 16,
        "max_steps": 5,
        "bf16": False,
        "report_to": "none",
    }
    return {**defaults, **changes}


def distill_fields(tmp_path: Path, model: Path, **changes: Any) -> dict[str, Any]:
    defaults = grpo_fields(tmp_path, model, stage="distill", teacher=str(model))
    return {
        key: value for key, value in defaults.items() if key not in ("rewards", "num_generations")
    } | changes


def test_the_shipped_s1_is_checked_on_a_machine_without_gpu_or_hub(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = checked(capsys, ROOT / "recipes/s1", "--usd-per-gpu-hour", 2)
    assert code == 0
    assert "16 processes x 1 x 1 = 16 rows a step" in said
    assert "fits: 1 x 32,768 tokens, 16 processes, zero3" in said
    assert "the tokenizer of Qwen/Qwen2.5-32B-Instruct is not at hand" in said
    assert "6 stages, 0 of them will not work" in said


def test_what_does_not_fit_says_what_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = yaml.safe_load((ROOT / "recipes/s1/04_sft.yaml").read_text(encoding="utf-8"))
    fields |= {"gradient_checkpointing": False, "dataset": str(tmp_path)}
    path = recipe(tmp_path, "04_sft", **fields)
    code, said = checked(capsys, path)
    assert code == 1
    assert "does not fit" in said
    assert "What would: gradient_checkpointing: true" in said
    assert checked(capsys, recipe(tmp_path, "05", **{**fields, "gradient_checkpointing": True}))[0] == 0
    code, said = checked(capsys, tmp_path / "05.yaml", "--gpu", "A100 40GB")
    assert code == 1
    assert "of 40 GiB (A100 40GB)" in said
    fields |= {"gradient_checkpointing": True, "launch": {**fields["launch"], "config": "zero3_offload"}}
    _, said = checked(capsys, recipe(tmp_path, "06", **fields))
    assert "and 244 GiB of RAM on each machine" in said  # half of 16 bytes for each of 32.8e9 weights


def test_time_and_cost_of_a_recipe_with_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = yaml.safe_load((ROOT / "recipes/s1/04_sft.yaml").read_text(encoding="utf-8"))
    fields |= {"max_steps": 315, "dataset": str(tmp_path)}
    path = recipe(tmp_path, "04_sft", **fields)
    cost = []
    for share in (0.2, 0.4):
        _, said = checked(capsys, path, "--mfu", share, "--usd-per-gpu-hour", 3)
        hours, usd = re.search(r"([\d.,]+) GPU-hours, ([\d.,]+) USD", said).groups()  # type: ignore[union-attr]
        assert float(usd.replace(",", "")) == pytest.approx(3 * float(hours.replace(",", "")), abs=2)
        cost.append(float(hours.replace(",", "")))
    assert cost[0] == pytest.approx(2 * cost[1], rel=0.01)


def test_data_template_and_batches_are_those_of_the_stage(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(capsys, recipe(tmp_path / "r", "sft", **sft_fields(tmp_path, tiny_model)))
    assert code == 0
    assert "24 traces" in said
    assert "0 left out (0.0%)" in said
    longest = int(re.search(r"mean, (\d+) at most", said).group(1))  # type: ignore[union-attr]
    assert f"fits: 2 x {longest} tokens, 1 process" in said
    code, said = checked(capsys, recipe(tmp_path / "r", "grpo", **grpo_fields(tmp_path, tiny_model)))
    assert code == 0
    assert "12 questions" in said
    assert "2 groups of 4 a generation" in said


@pytest.mark.parametrize(
    ("stage", "changes", "expected"),
    [
        ("sft", {"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ("sft", {"pad_token": "<|im_end|>"}, "may never stop"),
        ("sft", {"max_length": 200}, "more than max_overlong_fraction"),
        ("sft", {"dataset": "runs/nothing/here"}, "runs/nothing/here does not exist"),
        ("grpo", {"per_device_train_batch_size": 256}, "are fewer than the 64 of one generation"),
        ("grpo", {"max_completion_length": 4000}, "cannot be used"),
        ("grpo", {"per_device_train_batch_size": 6}, "num_generations"),
        (
            "sft",
            {"save_only_model": True},
            "save_only_model: a run that was killed goes on with its optimizer",
        ),
        ("grpo", {"log_completions": True}, "log_completions: drop it"),
        ("distill", {"attn_implementation": "documents"}, "documents is for packed rows"),
    ],
)
def test_what_will_not_work_is_said_before_it_runs(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    changes: dict[str, Any],
    expected: str,
) -> None:
    fields = {"sft": sft_fields, "grpo": grpo_fields, "distill": distill_fields}[stage]
    made = fields(tmp_path, tiny_model, **changes)
    code, said = checked(capsys, recipe(tmp_path / "r", stage, **made))
    assert code == 1
    assert expected in said


def test_unknown_gpu_and_share_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, expected in ((["--gpu", "X9"], "known GPU"), (["--mfu", "2"], "must be in (0, 1]")):
        assert main(["check", str(ROOT / "recipes/s1/04_sft.yaml"), *flags]) == 2
        assert expected in capsys.readouterr().err


def test_first_steps_of_several_machines_are_not_waited_for(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = {"config": "ddp_cpu", "num_processes": 2, "num_machines": 2}
    path = recipe(tmp_path / "r", "1_sft", **sft_fields(tmp_path, tiny_model, launch=launch, use_cpu=True))
    code, said = checked(capsys, path, "--first-step")
    assert code == 0, said
    assert "first steps not run: its launch is of 2 machines" in said


@pytest.mark.slow
def test_first_steps_run_at_full_length_and_leave_nothing(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    launch = {"config": "ddp_cpu", "num_processes": 2}
    recipe(tmp_path / "r", "1_sft", **sft_fields(tmp_path, tiny_model, launch=launch, use_cpu=True))
    recipe(tmp_path / "r", "2_grpo", **grpo_fields(tmp_path, tiny_model))
    code, said = checked(capsys, tmp_path / "r", "--first-step")
    assert code == 0, said
    assert (
        len(re.findall(r"first steps 0\.\d\d GiB resident more than at the start, predicted 0\.\d\d", said))
        == 2
    )
    assert "the longest traces" in said
    assert "rows at full length" in said
    assert not (tmp_path / "runs").exists()
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("first-steps-")]
