"""Sources: entries of a recipe, files with every kind of bad row, real sets, generators, roles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data.known_sets import KNOWN, last_boxed
from data.load_source import load, load_problems
from data.schema import Problem, problem_id
from data.sources import parse_source, refuse_eval_rows

COLUMNS = {"question": "q", "answer": "a"}


def file_entry(path: Path, **more: object) -> dict[str, object]:
    return {"path": str(path), "role": "train", "columns": dict(COLUMNS), **more}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_weight_and_level_of_a_source(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(100)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"path": str(tmp_path / "q.jsonl"), "role": "train", "weight": 0.3, "level": "hard"}
    taken = [load_problems(parse_source(entry, "sources[0]"))[0] for _ in range(2)]
    assert taken[0] == taken[1]
    assert len(taken[0]) == 30
    assert {problem.level for problem in taken[0]} == {"hard"}
    with pytest.raises(ValueError, match=r"weight: 1.5 is not a share"):
        parse_source({**entry, "weight": 1.5}, "sources[0]")
    with pytest.raises(ValueError, match="either `weight` or `limit`"):
        parse_source({**entry, "limit": 3}, "sources[0]")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "gsm8k", "colums": {}}, r"sources\[1\]\.colums.*'columns'"),
        ({"id": "gsm9k"}, r"sources\[1\]\.id.*'gsm8k'"),
        ({"id": "gsm8k", "split": "tset"}, r"sources\[1\]\.split.*'test'"),
        ({"id": "gsm8k", "limit": "many"}, r"sources\[1\]\.limit"),
        ({"id": "gsm8k", "limit": 0}, r"sources\[1\]\.limit"),
        ({"id": "gsm8k", "path": "x.jsonl"}, "either `id` or `path`"),
        ({}, "either `id` or `path`"),
        ("gsm8k", "not a mapping"),
        ({"id": "aime24", "role": "train"}, "is a benchmark"),
        ({"id": "openai/gsm8k"}, "`id: gsm8k`"),
        ({"path": "x.jsonl", "columns": COLUMNS}, r"sources\[1\]\.role"),
        ({"path": "x.jsonl", "role": "train", "columns": {"question": 3, "answer": "a"}}, "columns.question"),
        ({"path": "x.jsonl", "role": "train", "columns": {**COLUMNS, "awnser": "b"}}, "'answer'"),
        ({"id": "small_world"}, r"sources\[1\]\.limit"),
        ({"id": "reasoning_gym/chain_sum", "limit": 3, "role": "eval"}, "role"),
    ],
)
def test_a_bad_entry_is_refused_by_key(entry: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_source(entry, "sources[1]")


def test_known_sets_fill_in_split_role_and_licence() -> None:
    train = parse_source({"id": "gsm8k"}, "s")
    test = parse_source({"id": "gsm8k", "split": "test"}, "s")
    assert (train.name, train.role, train.licence) == ("gsm8k/train", "train", "MIT")
    assert (test.name, test.role) == ("gsm8k/test", "eval")
    assert parse_source({"id": "aime25"}, "s").role == "eval"


def test_bad_rows_are_rejected_one_by_one(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "rows.jsonl",
        {"q": "1 + 1?", "a": 2},
        {"q": "", "a": "2"},
        {"a": "2"},
        {"q": "What?", "a": None},
        {"q": "What?", "a": "  "},
        {"q": ["What?"], "a": "2"},
        {"q": "What?", "a": {"x": 1}},
        {"q": "Half of 5?", "a": 2.5},
        {"q": "Half of 4?", "a": 2.0},
        "a string",
    )
    problems, bad = load_problems(parse_source(file_entry(path, domain="sums"), "s"))
    assert [(p.question, p.answer) for p in problems] == [
        ("1 + 1?", "2"),
        ("Half of 5?", "2.5"),
        ("Half of 4?", "2"),
    ]
    assert {p.domain for p in problems} == {"sums"}
    assert {p.source for p in problems} == {str(path)}
    assert [r.rule for r in bad] == [
        "missing_question",
        "missing_question",
        "missing_answer",
        "missing_answer",
        "question_not_text",
        "answer_not_text",
        "not_an_object",
    ]


def test_a_column_that_no_row_has_is_an_error_with_the_columns_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"q": "1?", "answer": "1"})
    with pytest.raises(ValueError, match=r"rows\.jsonl has no column 'a'; it has answer, q"):
        load(parse_source(file_entry(path), "sources[0]"))


def test_unreadable_files_are_named_with_the_line(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"q": "1?", "a": 1}\n\n{"q": "2?", "a"\n')
    with pytest.raises(ValueError, match=r"torn\.jsonl line 3"):
        load(parse_source(file_entry(torn), "s"))
    latin = tmp_path / "latin.json"
    latin.write_bytes('[\n{"q": "café", "a": 1}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.json line 2"):
        load(parse_source(file_entry(latin), "s"))
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"corrupt\.parquet"):
        load(parse_source(file_entry(corrupt), "s"))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        load(parse_source(file_entry(empty), "s"))
    with pytest.raises(ValueError, match="does not exist"):
        load(parse_source(file_entry(tmp_path / "absent.jsonl"), "s"))
    mapping = tmp_path / "mapping.json"
    mapping.write_text("{}")
    with pytest.raises(ValueError, match="not a list"):
        load(parse_source(file_entry(mapping), "s"))


def test_json_and_parquet_give_the_same_problems_as_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"q": f"What is {n}\u2028 squared?", "a": str(n * n)} for n in range(5)]
    write_lines(tmp_path / "r.jsonl", *rows)
    (tmp_path / "r.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    answers = []
    for name in ("r.jsonl", "r.json", "r.parquet"):
        problems, bad = load_problems(parse_source(file_entry(tmp_path / name), "s"))
        assert not bad
        answers.append([(p.id, p.answer) for p in problems])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 5


def test_limit_takes_the_first_rows_or_draws_with_a_seed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", *({"q": f"{n}?", "a": n} for n in range(50)))

    def take(**more: object) -> list[str]:
        return [p.answer for p in load_problems(parse_source(file_entry(path, limit=5, **more), "s"))[0]]

    assert take() == ["0", "1", "2", "3", "4"]
    assert take(seed=1) == take(seed=1)
    assert take(seed=1) != take(seed=2)


def test_traces_from_columns_are_not_verified_yet(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"q": "1 + 1?", "a": 2, "t": "One and one.", "r": "It is 2."})
    columns = {**COLUMNS, "thinking": "t", "response": "r"}
    (trace,) = load(parse_source(file_entry(path, columns=columns), "s")).traces
    assert (trace.completion.thinking, trace.completion.response) == ("One and one.", "It is 2.")
    assert trace.verdict == "unverifiable"
    assert trace.completion.model == str(path)


def test_a_solution_becomes_a_correct_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"question": "Half of 48?", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 1,024"}
    (tmp_path / "gsm8k").mkdir()
    write_lines(tmp_path / "gsm8k" / "train.jsonl", row)
    monkeypatch.setenv("SLOWTHINK_DATA", str(tmp_path))
    loaded = load(parse_source({"id": "gsm8k", "trace": "solution"}, "s"))
    assert loaded.problems[0].answer == "1024"
    assert loaded.problems[0].solution == "48/2 = <<48/2=24>>24 clips."
    (trace,) = loaded.traces
    assert trace.completion.thinking == "48/2 = 24 clips."
    assert trace.completion.response == "\\boxed{1024}"
    assert trace.verdict == "correct"
    assert load(parse_source({"id": "gsm8k"}, "s")).traces == []


def test_gpqa_choices_are_shuffled_by_the_question_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"Correct Answer": "right", **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}}
    (tmp_path / "bench").mkdir()
    write_lines(
        tmp_path / "bench" / "gpqa_diamond.jsonl", *({"Question": f"Q{n}?", **row} for n in range(40))
    )
    monkeypatch.setenv("SLOWTHINK_DATA", str(tmp_path))
    source = parse_source({"id": "gpqa_diamond"}, "s")
    problems, _ = load_problems(source)
    for problem in problems:
        assert f"\n{problem.answer}) right" in problem.question
        assert all(f"wrong {n}" in problem.question for n in (1, 2, 3))
    assert {p.answer for p in problems} == set("ABCD")
    assert load_problems(source)[0] == problems


def test_an_answer_that_nothing_can_check_becomes_a_response_without_thinking(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"question": "Who are you?", "answer": "A model."}) + "\n", encoding="utf-8")
    (trace,) = load(parse_source(file_entry(path, columns={}, trace="answer"), "s")).traces
    assert (trace.completion.thinking, trace.completion.response) == ("", "A model.")
    assert (trace.verdict, trace.completion.model) == ("unverifiable", str(path))


def test_s1k_reads_traces_and_boxed_or_bare_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    trace = {"deepseek_thinking_trajectory": "Hmm.", "deepseek_attempt": "So 7.", "cot_type": "math"}
    rows = [
        {"question": "A?", "solution": "It is \\boxed{7}.", **trace},
        {"question": "B?", "solution": "8", **trace},
    ]
    (tmp_path / "s1").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s1" / "s1K-1.1.parquet")
    monkeypatch.setenv("SLOWTHINK_DATA", str(tmp_path))
    loaded = load(parse_source({"id": "s1K-1.1"}, "s"))
    assert [p.answer for p in loaded.problems] == ["7", "8"]
    assert [t.completion.thinking for t in loaded.traces] == ["Hmm.", "Hmm."]


def test_an_unreachable_hub_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub")

    import datasets

    monkeypatch.delenv("SLOWTHINK_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ValueError, match=r"sources\[0\].*openai/gsm8k.*gsm8k/train\.jsonl.*SLOWTHINK_DATA.*path"
    ):
        load(parse_source({"id": "gsm8k"}, "sources[0]"))
    with pytest.raises(ValueError, match=r"not on the hub.*SLOWTHINK_DATA"):
        load(parse_source({"id": "aime_1983_2023"}, "sources[0]"))


@pytest.mark.parametrize(
    ("id", "split", "rows", "unusable"),
    [
        ("gsm8k", "train", 7473, 0),
        ("gsm8k", "test", 1319, 0),
        ("math", "train", 7500, 2),
        ("math500", "test", 500, 0),
        ("aime24", "test", 30, 0),
        ("aime25", "test", 30, 0),
        ("amc23", "test", 40, 0),
        ("aime_1983_2023", "train", 975, 0),
    ],
)
def test_real_sets(id: str, split: str, rows: int, unusable: int, shared_data: Callable[[str], Path]) -> None:
    shared_data(KNOWN[id].splits[split].file)
    loaded = load(parse_source({"id": id, "split": split}, "s"))
    assert (loaded.rows_in, len(loaded.rejected)) == (rows, unusable)
    assert all(p.question and p.answer and p.id == problem_id(p.question) for p in loaded.problems)
    assert not any("reason step by step" in p.question for p in loaded.problems)
    if id in ("gsm8k", "aime24", "aime25", "amc23"):
        assert all(p.answer.lstrip("-").isdigit() for p in loaded.problems)


OPTIONS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}


@pytest.mark.parametrize(
    ("id", "options", "count"),
    [
        ("reasoning_gym/chain_sum", OPTIONS, 100),
        ("small_world", {"max_steps": 3}, 100),
        ("small_talk", {}, 60),
    ],
)
def test_generators_repeat_themselves_and_keep_the_splits_apart(
    id: str, options: dict[str, int], count: int
) -> None:
    def questions(split: str, seed: int) -> list[str]:
        entry = {"id": id, "split": split, "limit": count, "seed": seed, "options": options}
        problems, bad = load_problems(parse_source(entry, "s"))
        assert not bad
        assert {p.role for p in problems} == {split}
        return [p.id for p in problems]

    train, test = questions("train", 0), questions("eval", 0)
    assert len(set(train)) == len(set(test)) == count
    assert train == questions("train", 0)
    assert train != questions("train", 1)
    assert not {*train, *questions("train", 1)} & {*test, *questions("eval", 1)}


def test_small_talk_comes_with_its_best_replies_as_traces() -> None:
    loaded = load(parse_source({"id": "small_talk", "limit": 50, "seed": 3, "domain": "manners"}, "s"))
    assert [trace.problem for trace in loaded.traces] == loaded.problems
    assert {problem.domain for problem in loaded.problems} == {"manners"}
    for trace in loaded.traces:
        completion = trace.completion
        assert (completion.thinking, completion.response) == ("", trace.problem.answer)
        assert (completion.model, trace.verdict) == ("small_talk", "unverifiable")
    eval_entry = {"id": "small_talk", "limit": 999, "split": "eval"}
    with pytest.raises(ValueError, match=r"benchmarks\[0\]: small_talk: small_talk has only .* lower"):
        load(parse_source(eval_entry, "benchmarks[0]"))


def test_generators_refuse_bad_options_and_too_many_questions() -> None:
    gym = {"id": "reasoning_gym/chain_sum", "limit": 200}
    with pytest.raises(ValueError, match="foo"):
        load(parse_source({**gym, "options": {"foo": 1}}, "s"))
    with pytest.raises(ValueError, match="foo"):
        load(parse_source({"id": "small_world", "limit": 2, "options": {"foo": 1}}, "s"))
    with pytest.raises(ValueError, match="foo"):
        load(parse_source({"id": "small_talk", "limit": 2, "options": {"foo": 1}}, "s"))
    with pytest.raises(ValueError, match="only 180 different train questions"):
        load(parse_source({**gym, "options": {**OPTIONS, "max_digits": 1}}, "s"))
    with pytest.raises(ValueError, match="chain_sum"):
        load(parse_source({"id": "reasoning_gym/chain_summ", "limit": 2}, "s"))


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{3} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed 7$", "7"),
        (r"\fbox{x}", "x"),
        (r"\boxed{3} and \boxed{open", "3"),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


def test_eval_rows_are_refused_with_their_sources() -> None:
    def problem(source: str, role: str) -> Problem:
        return Problem(id=source, question="?", answer="1", source=source, role=role)  # type: ignore[arg-type]

    refuse_eval_rows([problem("math", "train")], "sft")
    rows = [problem("aime24", "eval"), problem("math", "train"), problem("aime24", "eval")]
    rows.append(problem("math500", "eval"))
    with pytest.raises(ValueError, match=r"sft.*aime24 \(2 rows\), math500 \(1 rows\)"):
        refuse_eval_rows(rows, "sft")


@pytest.mark.parametrize(
    ("entry", "column"),
    [({}, "question"), ({"columns": {"question": "q"}}, "answer"), ({"trace": "solution"}, "solution")],
)
def test_columns_have_our_names_unless_told(tmp_path: Path, entry: dict, column: str) -> None:
    row = {
        "q": "1+1?",
        "answer" if entry.get("trace") else "a": "2",
        "question" if entry.get("trace") else "b": "1+1?",
    }
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    source = parse_source({"path": str(tmp_path / "x.jsonl"), "role": "train", **entry}, "sources[0]")
    with pytest.raises(ValueError, match=rf"sources\[0\]\.columns\.{column}: .*has no column '{column}'"):
        load_problems(source)
    (tmp_path / "x.jsonl").write_text('{"question": "1+1?", "answer": "2", "solution": "1+1=2"}\n')
    named = {key: value for key, value in entry.items() if key != "columns"}
    problems, bad = load_problems(
        parse_source({"path": str(tmp_path / "x.jsonl"), "role": "train", **named}, "sources[0]")
    )
    assert [p.answer for p in problems] == ["2"]
    assert not bad
