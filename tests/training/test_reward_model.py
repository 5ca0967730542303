"""Stage `reward_model` on a small real model, in this process."""

from __future__ import annotations

import itertools
import json
import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from trl import ModelConfig, RewardConfig

from data.preferences import parse_preference_source
from data.schema import Attempt, written_completion
from data.step_formats import MarkerFormat, StepFormatOptions
from data.store import read_json, read_rows, write_attempts
from data.thinking import thinking_format
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.outcome_scorer import read_pairwise_options
from tests.training.prm_runs import losses, problem
from training.reward_model import RewardModelConfig, reward_model
from training.reward_pairs import PairReader, Solved, make_pairs, read_preferences, split_by_problem


def attempts(problems: int = 60, each: int = 3, role: Any = "train") -> list[Attempt]:
    """Of each problem as many right attempts, with a + in one of two steps, as wrong ones, with a -."""
    draw = random.Random(0)
    made = []
    for number in range(problems):
        for index in range(2 * each):
            letters = draw.choices("abcdefgh", k=12)
            letters[draw.randrange(12)] = "-" if index % 2 else "+"
            text = " ".join(letters[:6]) + "\n\n" + " ".join(letters[6:])
            completion = replace(written_completion("", text), text=text)
            verdict = "wrong" if index % 2 else "correct"
            made.append(
                Attempt(
                    problem=problem(number, role),
                    index=index,
                    completion=completion,
                    verdict=verdict,
                    extracted="",
                )
            )
    return made


def arguments(folder: Path, **options: Any) -> RewardConfig:
    defaults: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_steps": 3,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return RewardConfig(output_dir=str(folder), **{**defaults, **options})


def run(
    model: Path,
    folder: Path,
    rows: Sequence[Attempt],
    stage: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The stage's metrics."""
    write_attempts(folder.parent / "attempts", rows)
    config = RewardModelConfig(attempts=[str(folder.parent / "attempts")], **(stage or {}))
    loaded = ModelConfig(model_name_or_path=str(model), **(loading or {}))
    return reward_model(config, arguments(folder, **options), loaded, folder)


@pytest.mark.slow
def test_a_preference_is_learned_and_the_folder_scores(tiny_model: Path, tmp_path: Path) -> None:
    rows = attempts()
    folder = tmp_path / "out"
    stage = {"pairs_per_problem": 4, "held_out_fraction": 0.2}
    metrics = run(tiny_model, folder, rows, stage, max_steps=60, save_strategy="no")
    assert (metrics["problems"], metrics["pairs"], metrics["held_out_pairs"]) == (60, 192, 48)
    assert 0.3 < metrics["accuracy_before"] < 0.7
    assert metrics["accuracy"] > 0.95
    assert metrics["loss"] < 0.4
    scorer = load_scorer(ScorerOptions(scorer_model=str(folder)))
    new = attempts(80)[-60:]
    scores = scorer.score(
        [each.problem.question for each in new], [each.completion.text.split("\n\n") for each in new]
    )
    assert {len(each) for each in scores} == {2}
    right, wrong = (
        [s[-1] for s, a in zip(scores, new, strict=True) if a.verdict == v] for v in ("correct", "wrong")
    )
    assert sum(a > b for a in right for b in wrong) > 0.95 * len(right) * len(wrong)
    assert read_pairwise_options(str(folder)).step_separator == "\n\n"


@pytest.mark.slow
def test_a_score_is_the_sigmoid_of_the_trained_models_output_at_the_last_token(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    run(tiny_model, folder, attempts(8), learning_rate=1e-2)
    scorer: Any = load_scorer(ScorerOptions(scorer_model=str(folder)))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for attempt in attempts(3):
        steps = attempt.completion.text.split("\n\n")
        ids = scorer.step_format.encode(attempt.problem.question, steps).ids
        with torch.no_grad():
            output = model(torch.tensor([ids])).logits[0, 0]
        [[_, score]] = scorer.score([attempt.problem.question], [steps])
        assert score == pytest.approx(output.sigmoid().item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loading",
    [{}, {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}],
    ids=["full", "lora"],
)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_model: Path, tmp_path: Path, loading: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"loading": loading, "learning_rate": 1e-2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        run(tiny_model, folder, attempts(12), **options)
    (parts / "checkpoint-6" / ".complete").unlink()
    again = run(tiny_model, parts, attempts(12), **options)
    assert losses(parts) == losses(whole)
    assert again["loss"] == pytest.approx(read_json(whole / "log_history.json")[-1]["eval_loss"])
    one, two = (
        AutoModelForSequenceClassification.from_pretrained(each).state_dict() for each in (whole, parts)
    )
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(
        one["model.layers.0.mlp.up_proj.weight"], fresh["model.layers.0.mlp.up_proj.weight"]
    )
    assert not list(whole.glob("adapter_*"))


@pytest.mark.slow
def test_what_cannot_be_paired_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = attempts(4)
    rows[0] = replace(rows[0], verdict="unverifiable")
    rows[7] = replace(rows[7], completion=replace(rows[7].completion, text="a " * 400))
    rows[13] = replace(rows[13], completion=replace(rows[13].completion, text=" <think>\n\n"))
    rows[14] = replace(rows[14], completion=replace(rows[14].completion, text="<|im_end|>"))
    rows[18:] = [replace(row, verdict="wrong") for row in rows[18:]]
    rows.append(rows[2])
    metrics = run(
        tiny_model, tmp_path / "out", rows, {"max_rejected_fraction": 0.2}, max_length=200, max_steps=1
    )
    assert (metrics["attempts"], metrics["rejected"]) == (20, 4)
    assert (metrics["problems"], metrics["one_class"]) == (4, 1)
    assert metrics["pairs"] + metrics["held_out_pairs"] == 2 * 3 + 3 * 2 + 2 * 2
    kept = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert [row["rule"] for row in kept] == ["unverifiable", "overlong", "no_step", "unencodable"]


@pytest.mark.slow
def test_preferences_are_learned_beside_attempts(tiny_model: Path, tmp_path: Path) -> None:
    """Right and chosen answers have a +, in questions that are in both and in others."""
    rows = [
        {"prompt": each.problem.question, "chosen": each.completion.text, "rejected": other.completion.text}
        for each, other in itertools.pairwise(attempts(60, each=2))
        if each.verdict == "correct"
    ]
    odd = {"prompt": "Question 1?", "chosen": "a <|im_end|> b", "rejected": "c"}
    equal = {"prompt": "Question 1?", "chosen": "a", "rejected": "a "}
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [*rows, odd, equal])))
    sources = [
        {"path": str(tmp_path / "pairs.jsonl"), "role": "train"},
        {"id": "small_talk", "limit": 6, "seed": 1},
    ]
    stage = {"preferences": sources, "held_out_fraction": 0.2, "max_rejected_fraction": 0.1}
    options: dict[str, Any] = {"max_steps": 80, "save_strategy": "no", "center_rewards_coefficient": 0.01}
    options["per_device_eval_batch_size"] = 64  # TRL takes the mean of its batches, whatever their sizes
    metrics = run(tiny_model, tmp_path / "out", attempts(10, each=2), stage, **options)
    assert (metrics["attempts"], metrics["preference_pairs"]) == (40, 120 + 6)
    assert (metrics["rejected"], metrics["one_class"]) == (2, 0)
    assert metrics["pairs"] + metrics["held_out_pairs"] == 40 + 120 + 6
    assert 60 < metrics["problems"] <= 66
    assert metrics["accuracy"] > 0.9
    kept = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert [row["rule"] for row in kept] == ["same_text", "unencodable"]


@pytest.mark.slow
def test_mistakes_are_refused_before_training(tiny_model: Path, tmp_path: Path) -> None:
    def refuses(message: str, rows: Sequence[Attempt], **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            run(tiny_model, tmp_path / "out", rows, **options)

    refuses("holds rows with role eval", attempts(4, role="eval"))
    refuses("none of 4 problems has a right and a wrong", [replace(a, verdict="wrong") for a in attempts(4)])
    overlong = r"24 of 24 cannot be used \(24 overlong\).*\n.*overlong: .* > max_length 20"
    refuses(overlong, attempts(4), max_length=20)
    refuses("held_out_fraction: 0.05 of 1 problems", attempts(1))
    refuses("RewardTrainer does not know lengths", attempts(4), train_sampling_strategy="group_by_length")
    refuses("label_smoothing_factor", attempts(4), label_smoothing_factor=0.1)


def test_answers_that_are_read_alike_are_no_preference(tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "q?", "chosen": "<think>\n\n</think>\n\nYes.", "rejected": "Yes."},
        {"prompt": "q?", "chosen": "<think>\nSo.\n</think>\n\nYes.", "rejected": "Yes."},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reader = PairReader(
        step_format=MarkerFormat(tokenizer, StepFormatOptions()),
        separator="\n\n",
        form=thinking_format("think_tags"),
        max_length=None,
    )
    source = parse_preference_source(
        {"path": str(tmp_path / "pairs.jsonl"), "role": "train"}, "preferences[0]"
    )
    pairs, [bad] = read_preferences([source], reader)
    assert [len(each) for each in pairs.values()] == [1]
    assert bad.rule == "same_text"


def test_preferences_join_the_pairs_of_their_problem() -> None:
    def ids(number: int) -> Any:
        return array("i", [number])

    solved = {"a": Solved(right=[ids(1)], wrong=[ids(2)]), "b": Solved(right=[ids(3)], wrong=[])}
    preferred: dict[str, Any] = {"a": [(ids(4), ids(5))], "c": [(ids(6), ids(7))] * 3}
    made = make_pairs(solved, 2, 0, preferred)
    assert {problem: len(pairs) for problem, pairs in made.items()} == {"a": 2, "c": 2}
    assert (ids(4), ids(5)) in made["a"]
    with pytest.raises(ValueError, match="none of 1 problems has a right and a wrong attempt"):
        make_pairs({"b": solved["b"]}, None, 0)


def test_pairs_are_drawn_by_the_seed() -> None:
    def of(numbers: range) -> list[Any]:
        return [array("i", [number]) for number in numbers]

    solved = {f"p{i}": Solved(right=of(range(4)), wrong=of(range(4, 4 + i))) for i in range(5)}
    every = make_pairs(solved, None, seed=0)
    assert {name: len(pairs) for name, pairs in every.items()} == {"p1": 4, "p2": 8, "p3": 12, "p4": 16}
    some = make_pairs(solved, 5, seed=0)
    assert [len(pairs) for pairs in some.values()] == [4, 5, 5, 5]
    assert some == make_pairs(solved, 5, seed=0)
    assert some != make_pairs(solved, 5, seed=1)
    assert all(pair in every[name] for name, pairs in some.items() for pair in pairs)
    train, held_out = split_by_problem(every, 0.25, seed=0)
    assert len(train) + len(held_out) == 40
    assert len(held_out) in (4, 8, 12, 16)


def test_fields_are_checked() -> None:
    for options, message in (
        ({"attempts": []}, "attempts: name at least one .* or give preferences"),
        ({"preferences": [{"id": "small_talk"}]}, r"preferences\[0\].limit: say how many"),
        ({"preferences": [{"path": "p.jsonl", "role": "eval"}]}, r"preferences\[0\]: p.jsonl has role eval"),
        ({"pairs_per_problem": 0}, "pairs_per_problem: 0 must be"),
        ({"held_out_fraction": 1.0}, "held_out_fraction"),
        ({"thinking_format": "tags"}, "thinking_format"),
    ):
        with pytest.raises(ValueError, match=message):
            RewardModelConfig(**{"attempts": ["x"], **options})
