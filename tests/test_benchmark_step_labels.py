"""`benchmarks.step_labels`: its numbers are what they say, on a policy whose every mistake is known."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import step_labels
from benchmarks.step_labels import Measured, Size, first_error, interval, score, table, true_labels
from data.schema import Attempt, Problem, problem_id, written_completion
from data.small_world import LABELS, apply, boxed, build_tokenizer, read_question
from inference.engine import Follow, Generation, Request, check_requests
from inference.generations import Ending, finished_generation


def test_scores() -> None:
    labels = [(1.0, 0.25, None), (0.5, 0.75)]
    truths = [[True, False, False], [False, True]]
    scores = score(Measured(labels, truths, rollouts=8, tokens=100))
    assert scores == pytest.approx(
        {
            "accuracy": 3 / 4,
            "wrong_found": 1 / 2,
            "right_kept": 1,
            "auc": 1,
            "first_error": 1 / 2,
            "labelled": 4 / 5,
            "rollouts_per_label": 2,
            "tokens_per_label": 25,
        }
    )
    assert first_error((1.0, None)) == -1


def test_interval() -> None:
    values = interval([0.4, 0.5, 0.6])
    assert values["high"] == pytest.approx(0.5 + 4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None}
    assert "| hard_4 | 0.500 ± 0.248 | 0.500 |" in table({"hard_4": {"a": values, "b": interval([0.5])}})


def test_truth_is_that_of_all_lines_so_far() -> None:
    question = "50; A+1; B+2; C+3"
    problem = Problem(id=problem_id(question), question=question, answer="56")
    completion = replace(written_completion("A50+1=51\nB51+2=54\nC54+3=57"), text="...")
    attempt = Attempt(problem=problem, index=0, completion=completion, verdict="wrong", extracted="57")
    assert true_labels(attempt) == [True, False, False]


class Slipping:
    """A policy of the small world that gets a line wrong at times."""

    name = "slipping"
    has_logprobs = False
    repeatable = True
    max_model_tokens = 1024

    def __init__(self, share: float) -> None:
        self.tokenizer: Any = build_tokenizer()
        self.share = share
        self.tokens = 0

    def check(self, requests: Sequence[Request]) -> None:
        check_requests(self, requests)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        assert follow is None
        for index, request in enumerate(requests):
            prompt = self.tokenizer.decode(list(request.prompt_ids))
            question = prompt.partition("user\n")[2].partition("<|im_end|>")[0]
            text = self.go_on(question, prompt.rpartition("assistant\n")[2], random.Random(request.seed))
            ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
            self.tokens += len(ids)
            yield [(index, finished_generation(self.tokenizer, ids, Ending("stop"), ()))]

    def go_on(self, question: str, written: str, rng: random.Random) -> str:
        value, operations = read_question(question)
        lines = [line for line in written.split("\n") if "=" in line]
        value = int(lines[-1][-2:]) if lines else value
        text = "" if written else "<think>\n"
        for place, (operator, operand) in list(enumerate(operations))[len(lines) :]:
            result = apply(value, (operator, operand)) or 99
            result = rng.randint(10, 99) if rng.random() < self.share else result
            text += f"{LABELS[place]}{value}{operator}{operand}={result}\n"
            value = result
        return f"{text}</think>\n\n{boxed(str(value))}"


def test_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Slipping(0.1)
    monkeypatch.setattr(step_labels, "load_engine", lambda config: engine)
    monkeypatch.setattr(step_labels, "QUICK", Size(10, 4, (4,), 2))
    monkeypatch.setattr("sys.argv", ["step_labels", "--policy", "slipping", "--quick"])
    step_labels.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["ways"]) == {"hard_4", "soft_4", "binary_search_4", "each_hard_4", "each_soft_4"}
    mean = {way: {key: of["mean"] for key, of in scores.items()} for way, scores in result["ways"].items()}
    assert result["work"]["attempts"]["mean"] == 40
    assert mean["hard_4"]["accuracy"] > 0.9
    assert mean["binary_search_4"]["first_error"] > 0.8
    assert mean["each_soft_4"]["auc"] > 0.9
    assert mean["each_hard_4"]["rollouts_per_label"] == 4
    assert mean["hard_4"]["rollouts_per_label"] < 2
    assert mean["binary_search_4"]["tokens_per_label"] < mean["hard_4"]["tokens_per_label"]
    assert mean["each_hard_4"]["labelled"] == 1 > mean["binary_search_4"]["labelled"]
