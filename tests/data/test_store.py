from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import Attempt, Completion, Problem, problem_id
from data.store import (
    Journal,
    atomic_path,
    fingerprint,
    journal_rows,
    read_attempts,
    read_problems,
    read_rows,
    write_attempts,
    write_problems,
    write_rejected,
)


def problem(question: str = "1+1?", **values: object) -> Problem:
    defaults = {"id": problem_id(question), "question": question, "answer": "2", "metadata": {"a": [1, None]}}
    return Problem(**{**defaults, **values})  # type: ignore[arg-type]


def attempt(question: str = "1+1?", index: int = 0) -> Attempt:
    completion = Completion(
        text="t",
        thinking="",
        response="t",
        finish_reason="stop",
        prompt_tokens=3,
        thinking_tokens=0,
        completion_tokens=2,
        model="m",
        seed=2**62,
    )
    return Attempt(
        problem=problem(question), index=index, completion=completion, verdict="correct", extracted="2"
    )


def test_tables_round_trip(tmp_path: Path) -> None:
    write_problems(tmp_path, [problem("a"), problem("b", role="eval")])
    write_attempts(tmp_path, [attempt("a"), attempt("a", 1)])
    write_rejected(tmp_path, [])
    assert read_problems(tmp_path) == [problem("a"), problem("b", role="eval")]
    assert read_attempts(tmp_path) == [attempt("a"), attempt("a", 1)]
    assert read_rows(tmp_path / "rejected" / "rows.parquet", "rejected") == []


def test_tables_open_with_datasets(tmp_path: Path) -> None:
    from datasets import Dataset

    write_attempts(tmp_path, [attempt()])
    opened = Dataset.from_parquet(str(tmp_path / "attempts.parquet"), cache_dir=str(tmp_path / "cache"))
    assert opened[0]["question"] == "1+1?"  # type: ignore[index, call-overload]


def test_lone_surrogates_do_not_break_a_table(tmp_path: Path) -> None:
    write_problems(tmp_path, [problem("a \ud800 b", id="x")])
    assert read_problems(tmp_path)[0].question == "a ? b"


@pytest.mark.parametrize(
    ("content", "message"), [(b"PAR1 garbage", "not readable as parquet"), (None, "does not exist")]
)
def test_bad_tables_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "problems.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=rf"problems\.parquet.*{message}"):
        read_problems(tmp_path)


def test_missing_column_is_named(tmp_path: Path) -> None:
    write_problems(tmp_path, [problem()])
    with pytest.raises(ValueError, match=r"column 'index' is missing"):
        read_rows(tmp_path / "problems.parquet", "attempts")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "old"


@given(cut=st.integers(min_value=0, max_value=60))
def test_journal_survives_a_cut_anywhere(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("j") / "journal"
    rows = [{"i": 0, "t": "a\nb"}, {"i": 1, "t": "ü\u2028"}, {"i": 2, "t": "\ud800"}]
    with Journal(path) as journal:
        journal.append(rows)
    whole = path.read_bytes()
    os.truncate(path, max(0, len(whole) - cut))
    with Journal(path) as journal:
        kept = journal.rows
        assert kept == [{"i": r["i"], "t": r["t"].replace("\ud800", "?")} for r in rows[: len(kept)]]
        journal.append([{"i": 9}])
    with Journal(path) as journal:
        assert journal.rows == [*kept, {"i": 9}]


@given(place=st.integers(min_value=0, max_value=200), mask=st.integers(min_value=1, max_value=255))
def test_a_damaged_line_of_a_journal_is_passed_over(
    place: int, mask: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a disk makes of a byte: rows are as they were written, or not there."""
    path = tmp_path_factory.mktemp("j") / "journal"
    rows = [{"i": i, "t": "12 + 30 = 42"} for i in range(5)]
    with Journal(path) as journal:
        journal.append(rows)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= mask
    path.write_bytes(content)
    with Journal(path) as journal:
        assert [row for row in journal.rows if row not in rows] == []
        assert len(journal.rows) >= 3, "a line break that is lost joins two lines"
        journal.append([{"i": 9}])
    assert journal_rows(path)[-1] == {"i": 9}


def test_a_journal_without_checksums_is_read_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('{"i": 0}\n{"i": 1\n{"i": 2}\n')
    assert journal_rows(tmp_path / "journal") == [{"i": 0}, {"i": 2}]
    with Journal(tmp_path / "journal") as journal:
        assert journal.rows == [{"i": 0}, {"i": 2}]
        journal.append([{"i": 3}])
    assert journal_rows(tmp_path / "journal") == [{"i": 0}, {"i": 2}, {"i": 3}]


def test_changed_bytes_of_a_table_are_no_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "problems.parquet"
    write_problems(tmp_path, [problem(f"What is {i} + {i}?", id=str(i)) for i in range(50)])
    rows, content = read_problems(tmp_path), path.read_bytes()
    values = content.index(b"What is 7 + 7?") if b"What is 7 + 7?" in content else len(content) // 8
    for place in range(values, values + 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"problems\.parquet is not readable as parquet .*make it again"):
            read_problems(tmp_path)
    path.write_bytes(content)
    assert read_problems(tmp_path) == rows


def test_fingerprint_sees_content_and_ignores_logs(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    first = fingerprint(tmp_path)
    (tmp_path / "log.txt").write_text("x")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "w").write_text("x")
    assert fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert fingerprint(tmp_path) != first


def test_same_question_same_id() -> None:
    assert problem_id("  What\n is 1 ?") == problem_id("what is 1 ?")
    assert problem_id("1 + 2") != problem_id("1 + 3")
