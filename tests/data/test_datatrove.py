"""datatrove blocks: the same rows as the plain functions, whatever the number of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="needs datatrove: pip install -e .[scale]")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from data.curate import unsampled
from data.datatrove_blocks import Decontaminate, RuleFilter, table_reader, table_writer, trace_of
from data.decontaminate import BenchmarkIndex
from data.difficulty import outside_levels
from data.filters import apply_rules, longer_than, not_correct
from data.load_source import load_problems
from data.quality import DEFAULT_RULES, quality_rules
from data.schema import Attempt, Completion, Problem, attempt_row, problem_id
from data.sources import parse_source
from data.store import read_rows, write_attempts, write_problems

RULES = {
    **outside_levels(low=2),
    "not_correct": not_correct,
    "too_long": longer_than(40),
    **quality_rules(DEFAULT_RULES),
}
LEAK = "How many positive integers below one hundred have exactly four divisors in all?"


def trace(n: int) -> Attempt:
    question = LEAK if n % 13 == 0 else f"What is {n} + {n + 1}?" + (" \\boxed{" if n % 7 == 0 else "")
    problem = Problem(
        id=problem_id(f"{n} {question}"),
        question=question,
        answer=str(2 * n + 1),
        level=f"Level {n % 5}",
        metadata={"model": "of the metadata", "number": n, "length": float(n)},
    )
    completion = Completion(
        text="<think>",
        thinking=str(2 * n + 1) if n % 11 == 0 else f"Let me add them: {n} and {n + 1}.",
        response=f"\\boxed{{{2 * n + 1}}}",
        finish_reason="stop",
        prompt_tokens=1,
        thinking_tokens=n % 45,
        completion_tokens=n,
        model="m",
        seed=0,
    )
    verdict = "wrong" if n % 6 == 0 else "correct"
    return Attempt(problem=problem, index=n % 3, completion=completion, verdict=verdict, extracted="")


def run(pipeline: list[Any], folder: Path, tasks: int = 2) -> Any:
    return LocalPipelineExecutor(pipeline, tasks=tasks, workers=tasks, logging_dir=str(folder / "logs")).run()


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    found = [row for path in sorted(folder.glob("*.parquet")) for row in read_rows(path, table)]
    return sorted(found, key=lambda row: row["id"])


def test_traces_of_two_tasks_are_those_of_the_plain_functions(tmp_path: Path) -> None:
    traces = [trace(n) for n in range(120)]
    for part in range(3):
        write_attempts(tmp_path / "in" / f"{part}.parquet", traces[part::3], "traces")
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"question": LEAK, "answer": "32"}))
    benchmarks = [{"path": str(benchmark), "role": "eval"}]
    pipeline = [
        table_reader(str(tmp_path / "in")),
        RuleFilter(RULES, table_writer(str(tmp_path / "rejected"), "rejected")),
        Decontaminate(benchmarks, exclusion_writer=table_writer(str(tmp_path / "leaks"), "rejected")),
        table_writer(str(tmp_path / "out"), "traces"),
    ]
    run(pipeline, tmp_path)
    kept, dropped, counts = apply_rules(RULES, traces)
    assert all(counts[rule] for rule in ("level", "not_correct", "too_long", "unclosed", "answer_only"))
    (source,) = [parse_source(entry, "benchmark") for entry in benchmarks]
    index = BenchmarkIndex(load_problems(source)[0])
    leaks = {t.problem.id: match.evidence for t in kept if (match := index.match(t.problem.question))}
    assert leaks
    clean = [attempt_row(t) for t in kept if t.problem.id not in leaks]
    assert rows(tmp_path / "out", "traces") == sorted(clean, key=lambda row: row["id"])
    rejected = {row["id"]: (row["rule"], row["evidence"]) for row in rows(tmp_path / "rejected", "rejected")}
    assert rejected == {row.trace.problem.id: (row.rule, row.evidence) for row in dropped}
    first = rows(tmp_path / "rejected", "rejected")[0]
    whole = {t.problem.id: attempt_row(t) for t in traces}
    assert json.loads(first["row"]) == whole[first["id"]]
    evidence = {row["id"]: row["evidence"] for row in rows(tmp_path / "leaks", "rejected")}
    assert evidence == leaks


def test_real_problems_are_those_of_the_plain_functions(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    shared_data("math/math500.jsonl")
    shared_data("math/test.jsonl")
    benchmark: dict[str, Any] = {"id": "math500"}
    pool = {"id": "math", "split": "test", "limit": 1500, "seed": 0, "role": "eval"}
    problems = [replace(p, role="train") for p in load_problems(parse_source(pool, "pool"))[0]]
    for part in range(2):
        write_problems(tmp_path / "in" / f"{part}.parquet", problems[part::2])
    names = ["missing", "damaged", "unclosed", "image", "image_mention", "several_questions"]
    rejected = JsonlWriter(str(tmp_path / "rejected"), compression=None)
    run(
        [
            table_reader(str(tmp_path / "in")),
            RuleFilter(names, rejected),
            Decontaminate([benchmark]),
            table_writer(str(tmp_path / "out"), "problems"),
        ],
        tmp_path,
    )
    kept, dropped, _ = apply_rules(quality_rules(names), [unsampled(problem) for problem in problems])
    index = BenchmarkIndex(load_problems(parse_source(benchmark, "benchmark"))[0])
    clean = [t.problem.id for t in kept if index.match(t.problem.question) is None]
    assert len(problems) > len(kept) > len(clean) > 1000
    assert [row["id"] for row in rows(tmp_path / "out", "problems")] == sorted(clean)
    lines = [line for path in tmp_path.glob("rejected/*") for line in path.read_text().splitlines()]
    reasons = {row["id"]: row["metadata"] for row in map(json.loads, lines)}
    assert {id: (data["filter_reason"], data["filter_evidence"]) for id, data in reasons.items()} == {
        row.trace.problem.id: (row.rule, row.evidence) for row in dropped
    }


def test_other_files_give_columns_as_metadata(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {
            "id": "a",
            "question": "What is 1 + 1?",
            "answer": 2,
            "solution": "2",
            "school": "north",
            "level": None,
        },
        {"id": "b", "question": "What is 2 + 2?", "answer": "4", "thinking": "Two twice is 4.", "seed": 3},
        {"id": "c", "question": "See ![](x.png): what is it?", "answer": "4"},
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reader = JsonlReader(str(tmp_path / "in"), text_key="question")
    run(
        [reader, RuleFilter(["image", "answer_only"]), table_writer(str(tmp_path / "out"), "problems")],
        tmp_path,
        tasks=1,
    )
    first, second = rows(tmp_path / "out", "problems")
    assert (first["question"], first["answer"], first["level"]) == ("What is 1 + 1?", "2", "")
    assert json.loads(first["metadata"])["school"] == "north"
    assert (second["id"], second["answer"]) == ("b", "4")
    found = trace_of(Document(text="What is 2 + 2?", id="b", metadata=lines[1]))
    assert (found.completion.thinking, found.completion.seed) == ("Two twice is 4.", 3)
    assert trace_of(Document(text="Why?", id="d")).completion.thinking == "Why?"


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'damaged'"):
        RuleFilter(["damage"])
    with pytest.raises(ValueError, match="benchmarks: is empty"):
        Decontaminate([])
    with pytest.raises(ValueError, match=r"benchmarks\[0\]: .* has role train"):
        Decontaminate([{"path": "rows.jsonl", "role": "train"}])
