"""Curate: the funnel, difficulty from attempts, determinism, and what is said when too little is left."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.curate import curate, read_candidates
from data.curate_config import CurateConfig
from data.quality import wrong_language
from data.schema import Attempt, Completion, Outcome, Problem, problem_id
from data.store import read_attempts, read_problems, read_rows, write_attempts, write_problems
from data.thinking import thinking_format


def problem(n: int, **more: Any) -> Problem:
    question = f"Question {n}?"
    return Problem(id=problem_id(question), question=question, answer=str(n), domain=f"d{n % 3}", **more)


def attempt(problem: Problem, index: int = 0, verdict: Outcome = "correct", **more: Any) -> Attempt:
    values: dict[str, Any] = {
        "thinking": f"Thought {index}.",
        "response": problem.answer,
        "thinking_tokens": 5,
    }
    completion = Completion(
        text="",
        prompt_tokens=1,
        completion_tokens=9,
        seed=0,
        **{"finish_reason": "stop", "model": "m", **values, **more},
    )
    return Attempt(
        problem=problem, index=index, completion=completion, verdict=verdict, extracted=problem.answer
    )


def stage(
    tmp_path: Path, problems: list[Problem], traces: list[Attempt], attempts: list[Attempt] | None = None
) -> dict[str, Any]:
    write_problems(tmp_path / "collect", problems)
    write_attempts(tmp_path / "teacher", traces, "traces")
    write_attempts(tmp_path / "weak", attempts or [])
    return {
        "problems": str(tmp_path / "collect"),
        "traces": [str(tmp_path / "teacher")],
        "attempts": [str(tmp_path / "weak")],
    }


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(8)]
    traces = [
        attempt(problems[0]),
        attempt(problems[0], 1),
        attempt(problems[1], verdict="wrong"),
        attempt(problems[2], finish_reason="length"),
        attempt(problems[3], thinking="  "),
        attempt(problems[4], thinking="a <think> b"),
        attempt(problems[5]),
        attempt(problems[6]),
        attempt(problem(99)),
    ]
    paths = stage(
        tmp_path, problems, traces, [attempt(problems[5]), attempt(problems[6], verdict="unverifiable")]
    )
    metrics = curate(CurateConfig(**paths, max_pass_rate=0.5), tmp_path / "out")
    assert metrics["rows_in"] == 9
    assert metrics["rows_out"] == 2
    assert {step["rule"]: step["dropped"] for step in metrics["funnel"] if step["dropped"]} == {
        "not_in_problems": 1,
        "too_easy": 1,
        "not_correct": 1,
        "truncated": 1,
        "empty_thinking": 1,
        "tags": 1,
        "not_chosen": 1,
    }
    assert metrics["problems_without_pass_rate"] == 7
    assert metrics["problems_without_trace"] == 1
    assert metrics["domains_in"] == {"d0": 5, "d1": 2, "d2": 2}
    assert metrics["domains_out"] == {"d0": 2}
    rows = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert len(rows) == metrics["rows_in"] - metrics["rows_out"]
    assert all(row["evidence"] for row in rows)


@pytest.mark.parametrize("name", ["think_tags", "s1"])
def test_kept_traces_are_rendered_in_the_format(tmp_path: Path, name: str) -> None:
    curate(
        CurateConfig(**stage(tmp_path, [problem(1)], [attempt(problem(1))]), thinking_format=name),
        tmp_path / "out",
    )
    (kept,) = read_attempts(tmp_path / "out", "traces")
    assert thinking_format(name).parse(kept.completion.text) == ("Thought 0.", "1")


@pytest.mark.parametrize("diversity", ["s1", "uniform", "longest", "random"])
def test_the_same_seed_gives_the_same_set_in_any_order_of_rows(tmp_path: Path, diversity: Any) -> None:
    problems = [problem(n) for n in range(40)]
    traces = [attempt(p, i, thinking_tokens=n % 7) for n, p in enumerate(problems) for i in range(3)]

    def ids(name: str, traces: list[Attempt], seed: int) -> list[tuple[str, int]]:
        paths = stage(tmp_path / name, problems, traces)
        config = CurateConfig(**paths, size=10, diversity=diversity, trace_choice="random", seed=seed)
        assert curate(config, tmp_path / name / "out")["rows_out"] == 10
        return [(t.problem.id, t.index) for t in read_attempts(tmp_path / name / "out", "traces")]

    first = ids("a", traces, 1)
    assert first == ids("b", random.Random(0).sample(traces, len(traces)), 1)
    assert first != ids("c", traces, 2)


def test_too_few_traces_say_which_rule_took_them_and_what_helps(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(6)]
    paths = stage(
        tmp_path,
        problems,
        [attempt(p, verdict="correct" if n < 2 else "wrong") for n, p in enumerate(problems)],
    )
    with pytest.raises(
        ValueError, match=r"2 of 6 .* asks for 5; rule 'not_correct' took the most \(4\).*size: 2"
    ):
        curate(CurateConfig(**paths, size=5), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert curate(CurateConfig(**paths, size=5, allow_fewer=True), tmp_path / "out")["rows_out"] == 2
    assert curate(CurateConfig(**paths, size=5, require_correct=False), tmp_path / "out")["rows_out"] == 5
    with pytest.raises(ValueError, match=r"'too_short'.*lower min_thinking_tokens"):
        curate(
            CurateConfig(**paths, min_thinking_tokens=100, require_correct=False, allow_fewer=True),
            tmp_path / "none",
        )


def test_bad_inputs_are_refused(tmp_path: Path) -> None:
    paths = stage(tmp_path, [problem(1, role="eval")], [attempt(problem(1))])
    with pytest.raises(ValueError, match="role eval"):
        curate(CurateConfig(**paths), tmp_path / "out")
    paths = stage(tmp_path, [problem(1)], [attempt(problem(1, role="eval"))])
    with pytest.raises(ValueError, match="role eval"):
        curate(CurateConfig(**paths), tmp_path / "out")
    with pytest.raises(ValueError, match=r"neither traces\.parquet nor attempts\.parquet"):
        read_candidates(str(tmp_path / "collect"), {})
    wrong: dict[str, Any]
    for wrong in ({"thinking_format": "xml"}, {"min_pass_rate": 0.9, "max_pass_rate": 0.1}, {"size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CurateConfig(**paths, **wrong)


def test_problems_are_chosen_where_there_are_no_traces(tmp_path: Path) -> None:
    problems = [problem(n, level=str(n % 5), source="pool", licence="MIT") for n in range(60)]
    attempts = [attempt(p, verdict="wrong" if n % 2 else "correct") for n, p in enumerate(problems)]
    write_problems(tmp_path / "collect", problems)
    write_attempts(tmp_path / "weak", attempts)
    settings: dict[str, Any] = {
        "problems": str(tmp_path / "collect"),
        "attempts": [str(tmp_path / "weak")],
        "levels": ["3", "4"],
        "unsolved": True,
        "size": 6,
        "seed": 3,
    }
    metrics = curate(CurateConfig(**settings), tmp_path / "out")
    kept = read_problems(tmp_path / "out")
    assert len(kept) == metrics["rows_out"] == 6
    assert all(int(p.answer) % 2 and p.level in ("3", "4") for p in kept)
    random.Random(1).shuffle(problems)
    write_problems(tmp_path / "collect", problems)
    curate(CurateConfig(**settings), tmp_path / "again")
    assert read_problems(tmp_path / "again") == kept
    assert not (tmp_path / "out" / "traces.parquet").exists()


def test_bands_hold_for_every_model(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(3)]
    weak = [attempt(problems[0], model="a"), attempt(problems[1], model="b")]
    weak += [attempt(p, verdict="wrong", model=model) for p in problems for model in "ab"]
    paths = stage(tmp_path, problems, [attempt(p) for p in problems], weak)
    curate(CurateConfig(**paths, bands={"a": [0, 0.1]}), tmp_path / "out")
    assert {t.problem.id for t in read_attempts(tmp_path / "out", "traces")} == {p.id for p in problems[1:]}
    with pytest.raises(ValueError, match="c"):
        curate(CurateConfig(**paths, bands={"c": [0, 0.1]}), tmp_path / "out")
    with pytest.raises(ValueError, match=r"bands: a: \[1\] is not"):
        CurateConfig(**paths, bands={"a": [1]})


def test_the_audit_accounts_for_every_candidate(tmp_path: Path) -> None:
    problems = [problem(n, source=f"set{n % 2}", licence="MIT", level=str(n % 3)) for n in range(9)]
    traces = [attempt(p, verdict="wrong" if n == 0 else "correct") for n, p in enumerate(problems)]
    metrics = curate(CurateConfig(**stage(tmp_path, problems, traces), size=4), tmp_path / "out")
    verdicts = read_rows(tmp_path / "out" / "verdicts.parquet", "verdicts")
    assert len(verdicts) == metrics["rows_in"] == 9
    assert sum(row["rule"] == "kept" for row in verdicts) == 4
    assert {row["source"] for row in verdicts} == {"set0", "set1"}
    steps = metrics["funnel"]
    assert all(step["in"] - step["dropped"] == step["out"] for step in steps)
    assert [step["out"] for step in steps[:-1]] == [step["in"] for step in steps[1:]]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# 4 traces of 9" in card
    assert "| set0 | MIT | 5 |" in card
    assert "| not_correct | 9 | 1 | 8 |" in card
    assert "`not_correct` " + problems[0].id in card
    for name in ("lengths", "domains", "difficulty"):
        assert (tmp_path / "out" / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def dropped(metrics: dict[str, Any]) -> dict[str, int]:
    return {step["rule"]: step["dropped"] for step in metrics["funnel"] if step["dropped"]}


def test_problems_by_level_range_length_column_and_attempts(tmp_path: Path) -> None:
    lengths: list[Any] = [60, float("nan"), None, "many", -1, 60, 30.0, "70", 500, 80]
    problems = [problem(n, level=f"Level {n % 5}", metadata={"tokens": x}) for n, x in enumerate(lengths)]
    problems += [problem(n, level=f"Level {n}", metadata={"tokens": 50}) for n in range(10, 14)]
    problems += [problem(14, level="hard", metadata={"tokens": 50}), problem(15, level="3")]
    attempts = [attempt(p, verdict="wrong") for p in problems[:-1]]
    attempts[-2] = attempt(problems[-3], verdict="unverifiable")
    attempts += [attempt(problem(n)) for n in (77, 78, 79)]
    write_problems(tmp_path / "collect", problems)
    write_attempts(tmp_path / "weak", attempts)
    settings: dict[str, Any] = {"problems": str(tmp_path / "collect"), "attempts": [str(tmp_path / "weak")]}
    settings |= {"min_level": 1, "max_level": 12, "drop_unmeasured": True}
    settings |= {"length_column": "tokens", "min_thinking_tokens": 50, "max_thinking_tokens": 100}
    metrics = curate(CurateConfig(**settings, size=2, diversity="longest"), tmp_path / "out")
    assert dropped(metrics) == {
        "unmeasured": 2,  # the unverifiable one and the one without attempts
        "no_level": 1,
        "level": 2,
        "no_length": 4,
        "too_short": 1,
        "too_long": 1,
        "not_drawn": 3,
    }
    assert metrics["difficulty"]["m"]["not_in_pool"] == 3
    assert metrics["difficulty"]["m"]["problems_without_rate"] == 2
    assert {p.metadata["tokens"] for p in read_problems(tmp_path / "out")} == {"70", 80}
    rows = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    evidence = {row["evidence"] for row in rows if row["rule"] == "no_length"}
    assert evidence == {f"metadata column 'tokens' is {value}" for value in ("nan", "None", "'many'", "-1")}
    with pytest.raises(ValueError, match=r"5 of 16 .*'no_length' took the most \(4\): name another"):
        curate(CurateConfig(**settings, size=9), tmp_path / "none")


def test_the_length_column_measures_traces_and_counts_where_nobody_did(tmp_path: Path) -> None:
    problems = [problem(n, metadata={"tokens": tokens}) for n, tokens in enumerate([100, 200, 9])]
    traces = [attempt(p, thinking_tokens=n) for n, p in enumerate(problems)]
    paths = stage(tmp_path, problems, traces)
    config = CurateConfig(**paths, length_column="tokens", min_thinking_tokens=50)
    assert dropped(curate(config, tmp_path / "out")) == {"too_short": 1}
    kept = read_attempts(tmp_path / "out", "traces")
    assert {t.problem.answer: t.completion.thinking_tokens for t in kept} == {"0": 100, "1": 1}


def test_benchmarks_give_the_weights_of_the_draw(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(90)]
    write_problems(tmp_path / "collect", problems)
    for name, domains in {"aime": ["d1"], "gpqa": ["d1", "d2", "elsewhere", ""], "blank": [""]}.items():
        labelled = [replace(problem(n, role="eval"), domain=d) for n, d in enumerate(domains)]
        write_problems(tmp_path / name, labelled)
    settings: dict[str, Any] = {"problems": str(tmp_path / "collect"), "size": 40, "phase_one_share": 0.0}

    def weighed(*names: str, **more: Any) -> CurateConfig:
        return CurateConfig(**{**settings, **more}, benchmark_weights=[str(tmp_path / n) for n in names])

    metrics = curate(weighed("aime", "aime", "gpqa"), tmp_path / "out")
    assert metrics["domain_weights"] == pytest.approx({"d1": 7 / 3, "d2": 1 / 3, "elsewhere": 1 / 3})
    assert set(metrics["domains_out"]) == {"d1", "d2"}
    with pytest.raises(ValueError, match="blank has a domain"):
        curate(weighed("aime", "blank"), tmp_path / "none")
    write_problems(tmp_path / "collect", [replace(p, domain="other") for p in problems])
    with pytest.raises(ValueError, match="no candidate has a domain of the benchmarks, such as 'd1'"):
        curate(weighed("aime"), tmp_path / "none")
    for more in ({"size": None}, {"diversity": "longest"}, {"domain_weights": {"d1": 1.0}}):
        with pytest.raises(ValueError, match=r"benchmark_weights: .*(size|domain_weights)"):
            weighed("aime", **more)


def test_a_giant_domain_does_not_crowd_out_the_others(tmp_path: Path) -> None:
    small = [replace(problem(n), domain=f"small{n % 4}") for n in range(20)]
    giant = [replace(problem(n), domain="giant") for n in range(20, 2020)]
    write_problems(tmp_path / "collect", [*giant, *small])
    config = CurateConfig(problems=str(tmp_path / "collect"), size=100)
    out = curate(config, tmp_path / "out")["domains_out"]
    assert out == {"giant": 80, **{f"small{n}": 5 for n in range(4)}}


def test_several_traces_of_a_problem_are_kept_once_each(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(3)]
    traces = [attempt(problems[0], i, thinking=f"Way {i % 3}.") for i in range(5)]
    traces += [attempt(problems[1], 0), attempt(problems[1], 1, verdict="wrong")]
    paths = stage(tmp_path, problems, traces)
    metrics = curate(CurateConfig(**paths, traces_per_problem=2), tmp_path / "two")
    kept = read_attempts(tmp_path / "two", "traces")
    ways = [(t.problem.answer, t.completion.thinking) for t in kept]
    assert sorted(ways) == [("0", "Way 0."), ("0", "Way 1."), ("1", "Thought 0.")]
    assert dropped(metrics) == {"not_correct": 1, "not_chosen": 3}
    assert metrics["problems_without_correct_trace"] == 1


def test_answers_without_thinking_can_be_kept(tmp_path: Path) -> None:
    traces = [attempt(problem(1)), attempt(problem(2), thinking="", thinking_tokens=0)]
    paths = stage(tmp_path, [problem(1), problem(2)], traces)
    config = CurateConfig(**paths, require_thinking=False)
    assert curate(config, tmp_path / "both")["rows_out"] == 2
    for trace in read_attempts(tmp_path / "both", "traces"):
        parsed = thinking_format("think_tags").parse(trace.completion.text)
        assert parsed == (trace.completion.thinking, trace.completion.response)


def test_mixed_languages_go_where_a_larger_share_is_asked_for(tmp_path: Path) -> None:
    english = "We need to find the sum of the two numbers and then divide it by the number of children. " * 4
    german = "Wir müssen die Summe der beiden Zahlen finden und dann durch die Anzahl der Kinder teilen. " * 3
    texts = [english, english + german, english + "我们需要找到这两个数字的和再除以孩子的数量。" * 2]
    problems = [problem(n) for n in range(3)]
    traces = [attempt(p, thinking=text) for p, text in zip(problems, texts, strict=True)]
    assert not any(map(wrong_language("en"), traces))
    settings: dict[str, Any] = {"language": "en", "min_language_share": 0.9, "max_repeated_share": 1}
    config = CurateConfig(**stage(tmp_path, problems, traces), **settings)
    assert dropped(curate(config, tmp_path / "pure")) == {"wrong_language": 2}
    assert [t.completion.thinking for t in read_attempts(tmp_path / "pure", "traces")] == [english]


def test_no_correct_trace_at_all_is_said(tmp_path: Path) -> None:
    problems = [problem(n) for n in range(3)]
    paths = stage(tmp_path, problems, [attempt(p, verdict="wrong") for p in problems[:2]])
    message = (
        r"0 of 2 traces .*'not_correct' took the most \(2\): sample more traces or set require_correct: "
        r"false; no trace at all is correct: 3 questions have 0 verified traces"
    )
    with pytest.raises(ValueError, match=message):
        curate(CurateConfig(**paths), tmp_path / "out")
    paths = stage(tmp_path, problems, [attempt(problems[0], finish_reason="length")])
    with pytest.raises(ValueError, match=r"'truncated' took the most \(1\)") as caught:
        curate(CurateConfig(**paths), tmp_path / "out")
    assert "0 verified" not in str(caught.value)
    paths = stage(tmp_path, problems, [attempt(problems[0], verdict="unverifiable", response="")])
    with pytest.raises(ValueError, match=r"'empty_response' took the most \(1\)") as caught:
        curate(CurateConfig(**paths, require_correct=False), tmp_path / "out")
    assert "0 verified" not in str(caught.value)


def test_a_folder_without_attempts_may_be_among_others(tmp_path: Path) -> None:
    paths = stage(tmp_path, [problem(1)], [attempt(problem(1))])
    write_attempts(tmp_path / "hinted", [])
    paths["traces"].append(str(tmp_path / "hinted"))
    assert curate(CurateConfig(**paths), tmp_path / "out")["rows_out"] == 1
    with pytest.raises(ValueError, match="hinted hold no rows"):
        curate(CurateConfig(**{**paths, "traces": [str(tmp_path / "hinted")]}), tmp_path / "none")
