from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.schema import Attempt, Completion, Outcome, Problem
from data.store import read_attempts, write_problems
from data.thinking import FORMATS
from evaluation.evaluate import EvaluateConfig, benchmark_metrics, evaluate, print_table
from evaluation.problem_values import measure_problems, read_problem_values, summarise_values


def group(problem: str, verdicts: list[tuple[Outcome, str]]) -> list[Attempt]:
    """Attempts of one problem with these (verdict, extracted answer)."""
    completion = Completion(
        text="",
        thinking="",
        response="",
        finish_reason="stop",
        prompt_tokens=1,
        thinking_tokens=2,
        completion_tokens=3,
        model="m",
        seed=0,
    )
    owner = Problem(id=problem, question=problem, answer="1")
    return [
        Attempt(problem=owner, index=i, completion=completion, verdict=verdict, extracted=extracted)
        for i, (verdict, extracted) in enumerate(verdicts)
    ]


def test_metrics_of_groups_worked_by_hand() -> None:
    groups = [
        group("a", [("correct", "1"), ("wrong", "2"), ("wrong", "2.0"), ("wrong", "2")]),
        group("b", [("correct", "1"), ("correct", "1.0"), ("wrong", "3"), ("unverifiable", "x+y")]),
        [],
    ]
    metrics = benchmark_metrics(groups, measure_problems(groups, [1, 2, 4]), seed=0)
    assert metrics["problems"] == 3
    assert metrics["pass@1"]["mean"] == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)
    assert metrics["pass@2"]["mean"] == pytest.approx((1 / 2 + 5 / 6 + 0) / 3)
    assert metrics["pass@4"]["mean"] == pytest.approx(2 / 3)
    assert metrics["maj@4"]["mean"] == pytest.approx((0 + 1 + 0) / 3)
    assert metrics["unverifiable"] == pytest.approx(1 / 8)
    assert "maj@1" not in metrics
    assert metrics["accuracy"] == metrics["pass@1"]
    assert metrics["pass@1"]["low"] <= metrics["pass@1"]["mean"] <= metrics["pass@1"]["high"]


WORDS = "We add the two numbers and then we look at the result again."
FOREIGN = "Wir addieren die beiden Zahlen und sehen uns dann das Ergebnis noch einmal an."


def written(
    problem: str, texts: list[str], thinking_format: str = "think_tags", tokens: int = 10
) -> list[Attempt]:
    """Attempts of one problem that wrote these texts; the thinking of the i-th takes i + 1 times `tokens`."""
    attempts = []
    for i, (attempt, text) in enumerate(
        zip(group(problem, [("wrong", "")] * len(texts)), texts, strict=True)
    ):
        split = FORMATS[thinking_format].split(text)
        completion = replace(
            attempt.completion,
            text=text,
            thinking=split.thinking,
            response=split.response,
            thinking_tokens=(i + 1) * tokens,
            completion_tokens=(i + 2) * tokens,
            finish_reason="length" if not split.response else "stop",
        )
        attempts.append(replace(attempt, index=i, completion=completion))
    return attempts


def test_format_language_and_tokens_worked_by_hand() -> None:
    form = FORMATS["think_tags"]
    groups = [
        written("a", [form.render(WORDS, "3"), form.render(FOREIGN, "3"), f"<think>\n{WORDS}", "3"]),
        written("b", [form.render("1+1", "2"), form.render("2", "2") + "<think>"]),
        [],
    ]
    metrics = benchmark_metrics(groups, measure_problems(groups, [1]), seed=0)
    # two of four and one of two are one thinking block and a response; a problem without completions has none
    assert metrics["formatted"]["mean"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert metrics["formatted"]["problems"] == 2
    # only the three thinkings with words are judged; "1+1" and "2" say nothing
    assert metrics["language_judged"] == 3
    assert metrics["language_share"]["mean"] == pytest.approx(2 / 3)
    assert metrics["language_share"]["problems"] == 1
    assert metrics["truncated_share"]["mean"] == pytest.approx((1 / 4 + 0) / 2)
    assert metrics["thinking_tokens"]["mean"] == pytest.approx((25 + 15) / 2)
    assert metrics["completion_tokens"]["mean"] == pytest.approx((35 + 25) / 2)
    for name in ("formatted", "truncated_share", "thinking_tokens", "completion_tokens"):
        assert metrics[name]["low"] <= metrics[name]["mean"] <= metrics[name]["high"]
    assert metrics["accuracy"]["problems"] == 3


def test_the_format_is_that_of_the_recipe_and_language_may_be_left_out() -> None:
    groups = [written("a", [FORMATS["s1"].render(WORDS, "3")], "s1")]
    values = measure_problems(groups, [1], thinking_format="s1", language="de")
    assert (values["formatted"], values["language_share"]) == ([1.0], [0.0])
    values = measure_problems(groups, [1], language=None)
    assert values["formatted"] == [0.0]
    assert "language_share" not in values


def test_how_many_completions_the_language_rests_on_is_told(
    tiny_model: Path, source: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    form = FORMATS["think_tags"]
    groups = [written("a", [form.render(WORDS, "3")] * 3 + [form.render("1", "3")])]
    print_table(
        {"all": benchmark_metrics(groups, measure_problems(groups, [1]), seed=0)},
        configure(tiny_model, [source]),
    )
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = {name.strip(): value.strip() for name, value in lines}
    assert cells["completions with a language"] == "3"
    assert cells["language share"].startswith("1.000 [")


def test_what_no_problem_has_is_null_and_equal_tokens_have_no_width() -> None:
    groups = [written("a", ["3"]), written("b", ["4"])]
    metrics = benchmark_metrics(groups, measure_problems(groups, [1]), seed=0)
    assert metrics["language_share"] is None
    assert metrics["language_judged"] == 0
    assert summarise_values("thinking_tokens", [0, None, 0]) == {
        "mean": 0,
        "low": 0,
        "high": 0,
        "problems": 2,
    }


def configure(tiny_model: Path, benchmarks: list[dict], **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        model_name_or_path=str(tiny_model), benchmarks=benchmarks, max_tokens=5, batch_size=8, **options
    )


@pytest.fixture
def source(tmp_path: Path) -> dict:
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(tmp_path / "sums.jsonl"), "role": "eval", "licence": "MIT"}


def test_evaluate_keeps_every_completion_and_reports_each_benchmark(
    tiny_model: Path, source: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = [{**source, "name": "all"}, {**source, "name": "few", "limit": 2}]
    config = configure(tiny_model, benchmarks, num_completions=3, k=[1, 3])
    metrics = evaluate(config, tmp_path / "out")
    attempts = read_attempts(tmp_path / "out")
    assert len(attempts) == 6 * 3  # problems of both benchmarks are put to the model once
    assert metrics["benchmarks"]["all"]["problems"] == 6
    assert metrics["benchmarks"]["few"]["problems"] == 2
    assert metrics["tokens"] == sum(a.completion.completion_tokens for a in attempts)
    assert "pass@3" in capsys.readouterr().out
    found = read_problem_values(tmp_path / "out")
    assert found.ids["few"] == found.ids["all"][:2]
    assert found.settings["thinking_format"] == "think_tags"
    assert found.settings["few_shot"] == []
    for name, seen in metrics["benchmarks"].items():
        for metric in ("accuracy", "maj@3", "formatted", "thinking_tokens"):
            assert summarise_values(metric, found.values[name][metric]) == seen[metric]


def test_problems_that_cannot_be_put_count_as_wrong_and_are_told(
    tiny_model: Path, source: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(source["path"], "a") as file:
        file.write('{"question": "<|im_start|>", "answer": "1"}\n')
    metrics = evaluate(configure(tiny_model, [source]), tmp_path / "out")
    assert metrics["rejected"] == 1
    assert metrics["benchmarks"]["sums"]["accuracy"]["problems"] == 7
    assert "1 of 7 problems cannot be put to the model and count as wrong" in caplog.text
    assert "unusable_question: question contains the special token" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_completions": 2, "k": [1, 4]}, "k: 4 is not between 1 and num_completions=2"),
        ({"k": [0]}, "k: 0"),
        ({"temperature": 0, "num_completions": 4}, "greedy completions"),
        ({"language": "english"}, "language: 'english' is not one of am, .*null leaves it out"),
    ],
)
def test_options_that_measure_nothing_are_refused(
    tiny_model: Path, source: dict, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        configure(tiny_model, [source], **options)


def test_benchmarks_must_be_given_and_named_apart(tiny_model: Path, source: dict) -> None:
    with pytest.raises(ValueError, match="benchmarks: give at least one"):
        configure(tiny_model, [])
    with pytest.raises(ValueError, match="names repeat"):
        configure(tiny_model, [source, source])
    with pytest.raises(ValueError, match=r"benchmarks\[0\]"):
        configure(tiny_model, [{"id": "math5000"}])


def test_a_benchmark_with_bad_rows_is_refused(tiny_model: Path, source: dict, tmp_path: Path) -> None:
    with open(source["path"], "a") as file:
        file.write('{"question": "no answer"}\n')
    with pytest.raises(ValueError, match="1 bad rows, the first: missing_answer"):
        evaluate(configure(tiny_model, [source]), tmp_path / "out")
    write_problems(tmp_path / "none", [])
    empty = {"path": str(tmp_path / "none"), "role": "eval", "name": "nothing"}
    with pytest.raises(ValueError, match=r"benchmark nothing: .*none has no problems; give the folder of a"):
        evaluate(configure(tiny_model, [empty]), tmp_path / "out")
