"""Stage evaluate_prm: with scores that are known, through a kill, and with a tiny reward model end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.recipe import load_recipe
from data.schema import Attempt, Problem, written_completion
from data.stage import configure
from data.step_formats import StepFormatOptions
from data.step_tables import write_labelled
from data.steps import LabelledSolution
from data.store import journal_rows, read_json, read_rows, write_attempts
from evaluation import evaluate_prm as stage
from evaluation import prm_scores
from evaluation.evaluate_prm import EvaluatePrmConfig, evaluate_prm, separator_of
from evaluation.prm_report import has_both_kinds, set_metrics
from evaluation.prm_scores import JOURNAL, Scorable, score_all
from inference.scorers.load import ScorerOptions, load_scorer
from inference.scorers.outcome_scorer import save_pairwise_options
from inference.scorers.reward_model import RewardModelOptions, load_weights, save_options
from launch.stages import find_stage


class Oracle:
    """A scorer that reads the score at the end of a step: "... 0.25"."""

    name = "oracle"
    forwarded_tokens = 0

    def __init__(self, dies_after: int = 10**9) -> None:
        self.calls = 0
        self.dies_after = dies_after

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        assert len(questions) == len(solutions)
        if self.calls == self.dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        for index, steps in enumerate(solutions):
            if any("<special>" in step for step in steps):
                raise ValueError(f"solution {index}: a step has a special token")
        self.forwarded_tokens += sum(map(len, solutions))
        return [[float(step.split()[-1]) for step in steps] for steps in solutions]


def solution(number: int, scores: Sequence[float], labels: Sequence[float | None]) -> LabelledSolution:
    question = f"What is {number}+1?"
    return LabelledSolution(
        problem=Problem(id=f"p{number}", question=question, answer="", role="eval"),
        steps=tuple(f"step {score}" for score in scores),
        labels=tuple(labels),
        right=labels[-1] == 1,
    )


GOOD = [
    solution(0, [0.9, 0.2, 0.9], [1, 0, None]),
    solution(1, [0.3, 0.9], [0, None]),
    solution(2, [0.9, 0.8], [1, 1]),
    solution(3, [0.7, 0.9], [1, 1]),
]
OTHER = [replace(each, problem=replace(each.problem, id=f"o{i}")) for i, each in enumerate(GOOD[:3])]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    for name, rows in (("good", GOOD), ("other", OTHER)):
        write_labelled(tmp_path / name, rows)
    write_attempts(tmp_path / "attempts", [a for p in range(3) for a in attempts(p)])
    return {name: str(tmp_path / name) for name in ("good", "other", "attempts")}


def attempts(problem: int) -> list[Attempt]:
    """Wrong twice with low scores, right once with a high one, and once without any step."""
    texts = [
        "<think>\nstep 0.1\n</think>\n\nso 0.2",
        "a 0.3\n\nb 0.3",
        "<think>\nc 0.9\n</think>\n\nd 0.8",
        "",
    ]
    return [
        Attempt(
            problem=Problem(id=f"a{problem}", question="What is 1+1?", answer="2"),
            index=index,
            completion=replace(written_completion("", ""), text=text),
            verdict="correct" if index == 2 else "wrong",
            extracted="" if not text else "2" if index == 2 else "3",
        )
        for index, text in enumerate(texts)
    ]


def config(folders: dict[str, str], **options: Any) -> EvaluatePrmConfig:
    sets = [{"path": folders[name], "name": name} for name in ("good", "other")]
    return EvaluatePrmConfig(**{"scorer_model": "none", "sets": sets, **options})


def test_metrics_files_and_plots_of_known_scores(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(stage, "load_scorer", lambda config: Oracle())
    metrics = evaluate_prm(config(folders, attempts=folders["attempts"]), tmp_path / "out")
    assert metrics["threshold_set"] == metrics["baselines_set"] == "good"
    assert 0.3 < metrics["threshold"] <= 0.7
    assert metrics["good F1"] == metrics["other F1"] == 1
    good = metrics["sets"]["good"]
    assert good["first_error_at_half"]["f1"] == 1
    assert good["step_auc"]["auc"] == 1
    assert (good["step_auc"]["right"], good["step_auc"]["wrong"]) == (5, 2)
    assert good["error_auc"]["min"]["auc"] == good["error_auc"]["prod"]["auc"] == 1
    assert good["error_auc"]["last"]["auc"] == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)
    assert set(good["baselines"]) == {"always_right", "random", "step_position", "step_length"}
    assert sum(row["steps"] for row in good["reliability"]) == 7
    found = metrics["attempts"]
    assert (found["attempts"], found["problems"], found["without_steps"]) == (12, 3, 3)
    assert [row["n"] for row in found["best_of_n"]] == [1, 2, 4]
    assert metrics["best_of_n@4"] == metrics["weighted_best_of_n@4"] == 1
    assert metrics["majority@4"] == 0
    assert found["answer_auc"]["last"]["auc"] == 1
    assert metrics["scored"] == 4 + 3 + 12
    json.dumps(metrics)
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert len(rows) == 19
    assert rows[0]["scores"] == [0.9, 0.2, 0.9]
    assert rows[0]["labels"] == [1, 0, None]
    last = [row for row in rows if row["set"] == "attempts"][:4]
    assert [row["steps"] for row in last] == [
        ["step 0.1", "so 0.2"],
        ["a 0.3", "b 0.3"],
        ["c 0.9", "d 0.8"],
        [],
    ]
    assert [row["right"] for row in last] == [False, False, True, False]
    for plot in ("reliability", "best_of_n"):
        assert (tmp_path / "out" / "plots" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out" / JOURNAL).exists()
    assert "good" in capsys.readouterr().out


def test_a_given_threshold_and_one_from_another_set(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "load_scorer", lambda config: Oracle())
    metrics = evaluate_prm(config(folders, threshold=0.75), tmp_path / "a")
    assert (metrics["threshold"], metrics["threshold_set"]) == (0.75, None)
    assert metrics["sets"]["good"]["first_error"]["correct_accuracy"] == 0.5
    metrics = evaluate_prm(config(folders, threshold_set="other"), tmp_path / "b")
    assert metrics["threshold_set"] == "other"
    metrics = evaluate_prm(config(folders, sets=[], attempts=folders["attempts"], n=[2]), tmp_path / "c")
    assert [row["n"] for row in metrics["attempts"]["best_of_n"]] == [2]
    assert metrics["threshold"] == 0.5


def test_a_killed_run_ends_with_the_same_scores(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prm_scores, "SOLUTIONS_PER_CALL", 2)
    monkeypatch.setattr(stage, "load_scorer", lambda config: Oracle())
    whole = evaluate_prm(config(folders, attempts=folders["attempts"]), tmp_path / "whole")
    monkeypatch.setattr(stage, "load_scorer", lambda config: Oracle(dies_after=3))
    with pytest.raises(KeyboardInterrupt):
        evaluate_prm(config(folders, attempts=folders["attempts"]), tmp_path / "killed")
    journal = tmp_path / "killed" / JOURNAL
    assert len(journal_rows(journal)) == 6
    content = journal.read_bytes()
    journal.write_bytes(content[:-10])
    second = Oracle()
    monkeypatch.setattr(stage, "load_scorer", lambda config: second)
    resumed = evaluate_prm(config(folders, attempts=folders["attempts"]), tmp_path / "killed")
    assert second.calls == 10 - 2
    assert {**resumed, "tokens": 0} == {**whole, "tokens": 0}
    assert not journal.exists()


def test_solutions_that_cannot_be_scored_are_misses_and_kept(tmp_path: Path) -> None:
    work = [
        Scorable(set="s", index=i, problem="p", question="q", steps=steps)
        for i, steps in enumerate([("a 0.5",), ("b <special>",), (), ("c 0.1", "d 1")])
    ]
    scores, bad = score_all(Oracle(), work, tmp_path)
    assert [scores["s", i] for i in range(4)] == [[0.5], None, [], [0.1, 1.0]]
    assert [(row.rule, row.id) for row in bad] == [("unscorable", "p")]
    assert "special token" in bad[0].evidence
    again, _ = score_all(Oracle(dies_after=0), work, tmp_path)
    assert again == scores
    with pytest.raises(ValueError, match=r"oracle can score none of 1 solutions.*special token"):
        score_all(Oracle(), work[1:2], tmp_path / "other")
    metrics = set_metrics(
        GOOD, [None, *([1.0] * len(s.steps) for s in GOOD[1:])], threshold=0.5, chosen_on=GOOD, seed=0
    )
    assert metrics["unscored"] == 1
    assert metrics["first_error"]["error_accuracy"] == 0


def test_a_set_of_one_kind_has_no_f1_and_chooses_no_threshold(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "load_scorer", lambda config: Oracle())
    write_labelled(tmp_path / "right", GOOD[2:])
    assert not has_both_kinds(GOOD[2:])
    sets = [{"path": str(tmp_path / "right"), "name": "right"}, {"path": folders["good"], "name": "good"}]
    metrics = evaluate_prm(config(folders, sets=sets), tmp_path / "out")
    assert metrics["threshold_set"] == "good"
    right = metrics["sets"]["right"]
    assert (
        right["first_error"] is right["baselines"] is right["step_auc"] is right["error_auc"]["min"] is None
    )
    with pytest.raises(ValueError, match="threshold_set: the solutions of right are all with"):
        evaluate_prm(config(folders, sets=sets, threshold_set="right"), tmp_path / "no")


def test_bad_configs_are_refused_before_a_model_is_loaded(folders: dict[str, str], tmp_path: Path) -> None:
    for options, message in [
        ({"sets": []}, "sets: give at least one"),
        ({"sets": [{"path": folders["good"]}] * 2}, "names repeat"),
        ({"sets": [{"path": folders["good"], "name": "attempts"}]}, "names repeat"),
        ({"threshold_set": "godo"}, "threshold_set: 'godo' is not among the sets good, other"),
        ({"thinking_format": "none"}, "thinking_format"),
        ({"n": [0]}, "n: 0 is less than 1"),
        ({"scorer": "qwen"}, "scorer: there is no 'qwen'"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(folders, **options)
    write_labelled(tmp_path / "bad", [replace(GOOD[0], steps=("a", " ", "b"))])
    bad = config(folders, sets=[{"path": str(tmp_path / "bad"), "name": "bad"}])
    with pytest.raises(ValueError, match="bad has 1 bad rows, the first: blank_step"):
        evaluate_prm(bad, tmp_path / "out")


@pytest.fixture
def reward_model(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> Path:
    """A random classifier of steps on the tiny model, whose steps are lines."""
    import torch

    folder, options = tmp_path / "reward", RewardModelOptions(step_separator="\n")
    torch.manual_seed(0)
    load_weights(str(tiny_model), options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_options(folder, options)
    return folder


def recipe(path: Path, reward_model: Path, folders: dict[str, str]) -> Path:
    fields = {
        "stage": "evaluate_prm",
        "output_dir": str(path.parent / "out"),
        "scorer_model": str(reward_model),
        "scorer_dtype": "float32",
        "sets": [{"path": folders["good"], "name": "good"}],
        "attempts": folders["attempts"],
        "aggregation": "min",
        "n": [1, 4],
    }
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.slow
def test_the_stage_end_to_end_on_a_tiny_model(
    folders: dict[str, str], reward_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "evaluation.evaluate_prm", "--config"]
    command.append(str(recipe(tmp_path / "01_evaluate_prm.yaml", reward_model, folders)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert 0 < metrics["threshold"] < 1
    assert metrics["sets"]["good"]["unscored"] == 0
    assert metrics["tokens"] > 0
    assert {row["n"] for row in metrics["attempts"]["best_of_n"]} == {1, 4}
    assert read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected") == []
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "finished before, nothing changed" in again.stdout


def test_a_recipe_of_the_stage_is_understood(
    folders: dict[str, str], reward_model: Path, tmp_path: Path
) -> None:
    loaded = load_recipe(recipe(tmp_path / "01_evaluate_prm.yaml", reward_model, folders))
    _, (made,) = configure(loaded, find_stage("evaluate_prm").config_classes(), ["--threshold", "0.4"])
    assert (made.threshold, made.n, made.sets[0]["name"]) == (0.4, [1, 4], "good")


def test_attempts_are_split_as_the_reward_model_was_trained(
    folders: dict[str, str], reward_model: Path
) -> None:
    assert separator_of(config(folders, scorer_model=str(reward_model))) == "\n"
    assert separator_of(config(folders, scorer_model=str(reward_model), step_separator="; ")) == "; "
    assert separator_of(config(folders)) == "\n\n"
    save_pairwise_options(reward_model, StepFormatOptions(step_separator="# "))
    assert separator_of(config(folders, scorer_model=str(reward_model))) == "# "


def test_scores_are_those_of_the_model(folders: dict[str, str], reward_model: Path, tmp_path: Path) -> None:
    metrics = evaluate_prm(
        config(folders, scorer_model=str(reward_model), scorer_dtype="float32"), tmp_path / "out"
    )
    scorer = load_scorer(ScorerOptions(scorer_model=str(reward_model), scorer_dtype="float32"))
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()[: len(GOOD)]
    alone = [scorer.score([s.problem.question], [s.steps])[0] for s in GOOD]
    for row, each in zip(rows, alone, strict=True):
        assert row["scores"] == pytest.approx(each, abs=1e-4)
    assert metrics["scored"] == len(GOOD) + len(OTHER)
