"""The nouns of slowthink and the columns of their tables.

A table is a parquet file with one of the `*_FEATURES` below. Every row of an attempts or traces table carries
its problem, so that each table can be read alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import datasets

Role = Literal["train", "eval"]
Outcome = Literal["correct", "wrong", "unverifiable"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with its gold answer."""

    id: str
    """`problem_id(question)`: the same question has the same id wherever it comes from."""
    question: str
    answer: str
    """Gold answer, as short as the benchmark gives it ("42", "\\frac{1}{2}")."""
    solution: str = ""
    """Worked solution by a person, empty where there is none."""
    source: str = ""
    licence: str = ""
    role: Role = "train"
    """`eval` rows are refused by every training stage."""
    domain: str = ""
    level: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-serialisable extras of the source; stored as one JSON string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One generated sequence."""

    text: str
    thinking: str
    response: str
    finish_reason: FinishReason
    prompt_tokens: int
    thinking_tokens: int
    """Generated (and forced) tokens before the tag that ends the thinking; 0 where there is no thinking."""
    completion_tokens: int
    model: str
    seed: int
    """Of the first draw, where length rejection sampling drew again."""


def written_completion(thinking: str, response: str = "", model: str = "") -> Completion:
    """A completion that came with a source: no tokens of it are counted, and its text is not rendered yet."""
    return Completion(
        text="",
        thinking=thinking,
        response=response,
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=0,
        completion_tokens=0,
        model=model,
        seed=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A completion of a problem with its verdict. As an SFT target it is called a trace."""

    problem: Problem
    index: int
    """0 <= index < completions per problem."""
    completion: Completion
    verdict: Outcome
    extracted: str
    """The answer that was read from the completion, empty where none was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A row that a rule dropped, with the evidence."""

    id: str
    rule: str
    evidence: str
    row: str
    """The dropped row as JSON."""


def normalise_question(question: str) -> str:
    """Lower case, NFKC, white space collapsed: two questions that differ only so are one problem."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", question)).strip().lower()


def problem_id(question: str) -> str:
    """First 16 hex digits of SHA-256 of the normalised question."""
    return hashlib.sha256(normalise_question(question).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def problem_row(problem: Problem) -> dict[str, Any]:
    """Row of a problems table."""
    row = asdict(problem)
    row["metadata"] = json.dumps(problem.metadata, ensure_ascii=False, sort_keys=True)
    return row


def problem_from_row(row: Mapping[str, Any]) -> Problem:
    """Inverse of `problem_row`; ignores other columns, so it also reads the problem of an attempt's row."""
    values = {f.name: row[f.name] for f in fields(Problem)}
    values["metadata"] = json.loads(values["metadata"])
    return Problem(**values)


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """Row of an attempts or traces table: problem, completion and verdict side by side."""
    completion = asdict(attempt.completion)
    return {
        **problem_row(attempt.problem),
        "index": attempt.index,
        **completion,
        "verdict": attempt.verdict,
        "extracted": attempt.extracted,
    }


def attempt_from_row(row: Mapping[str, Any]) -> Attempt:
    """Inverse of `attempt_row`."""
    return Attempt(
        problem=problem_from_row(row),
        index=row["index"],
        completion=Completion(**{f.name: row[f.name] for f in fields(Completion)}),
        verdict=row["verdict"],
        extracted=row["extracted"],
    )


def rejected(row: Mapping[str, Any], rule: str, evidence: str) -> Rejected:
    """Record why `row` was dropped. `rule` is the rule's name, `evidence` what it saw."""
    dump = json.dumps(dict(row), ensure_ascii=False, default=str)
    return Rejected(id=str(row.get("id", "")), rule=rule, evidence=evidence[:2000], row=dump[:100_000])


_STRING_COLUMNS = {
    Problem: tuple(f.name for f in fields(Problem)),
    Rejected: tuple(f.name for f in fields(Rejected)),
}
_LABEL_STRINGS = ("right", "model", "labeller")
_INTEGER_COLUMNS = ("prompt_tokens", "thinking_tokens", "completion_tokens", "seed")


@cache
def table_features(table: str) -> datasets.Features:
    """Declared columns of a table: problems, attempts, traces, step_labels, rejected, verdicts (what became
    of each candidate), searches or nodes (of their trees).

    Raises:
        ValueError: any other name.
    """
    from datasets import Features, List, Value

    strings = {
        name: Value("string") for name in _STRING_COLUMNS[Rejected if table == "rejected" else Problem]
    }
    if table in ("problems", "rejected"):
        return Features(strings)
    if table == "verdicts":
        return Features({name: Value("string") for name in ("id", "index", "source", "rule", "evidence")})
    if table in ("attempts", "traces"):
        completion = {
            f.name: Value("int64" if f.name in _INTEGER_COLUMNS else "string") for f in fields(Completion)
        }
        verdict = {"verdict": Value("string"), "extracted": Value("string")}
        return Features({**strings, "index": Value("int64"), **completion, **verdict})
    if table == "step_labels":
        labels = {"steps": List(Value("string")), "labels": List(Value("float64"))}
        return Features({**strings, **labels, **{name: Value("string") for name in _LABEL_STRINGS}})
    if table == "searches":
        return Features({**strings, **_search_columns()})
    if table == "nodes":
        numbers = {name: Value("int64") for name in ("node", "parent", "tokens")}
        texts = {name: Value("string") for name in ("id", "setting", "text", "end")}
        flags = {name: Value("bool") for name in ("forced", "cut")}
        return Features({**texts, **numbers, **flags, "score": Value("float64")})
    raise ValueError(
        f"no table is called {table!r}; tables are problems, attempts, traces, step_labels, rejected, "
        "verdicts, searches and nodes"
    )


def _search_columns() -> dict[str, Any]:
    """Columns of a searches table beside those of the problem (inference/search/results.py)."""
    from datasets import List, Value

    lists = {name: List(Value("int64")) for name in ("classes", "tokens", "nodes")}
    counts = ("n", "width", "prompt_tokens", "generated_tokens", "forced_tokens", "rounds")
    choices = ("majority", "best_of_n", "weighted_best_of_n")
    costs = ("scorer_tokens", "policy_flops", "scorer_flops", "seconds", "latency_seconds")
    return {
        **{name: Value("string") for name in ("setting", "strategy", "options")},
        **lists,
        "scores": List(Value("float64")),
        "correct": List(Value("bool")),
        **{name: Value("int64") for name in (*counts, *choices)},
        **{name: Value("float64") for name in costs},
    }
