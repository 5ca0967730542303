"""What is kept of the search of one problem: its result, its tree and its candidates as attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.schema import Attempt, attempt_from_row, attempt_row
from data.thinking import ThinkingFormat
from inference.draw import make_attempts
from inference.engine import Engine, Generation
from inference.search.choose import choose
from inference.search.driver import Searched
from inference.search.results import SearchResult, result_from_row, result_row
from inference.search.strategies.strategy import SearchStrategy
from rewards.answer_classes import answer_classes
from rewards.policy import parse_policy


@dataclass(frozen=True, kw_only=True)
class Record:
    """One problem, searched in one setting."""

    result: SearchResult
    attempts: list[Attempt]
    """The candidates."""
    nodes: list[dict[str, Any]]
    """Rows of a nodes table."""


def record_row(record: Record) -> dict[str, Any]:
    """The record as JSON."""
    return {
        "result": result_row(record.result),
        "attempts": [attempt_row(attempt) for attempt in record.attempts],
        "nodes": record.nodes,
    }


def record_from_row(row: Mapping[str, Any]) -> Record:
    """Inverse of `record_row`."""
    return Record(
        result=result_from_row(row["result"]),
        attempts=[attempt_from_row(attempt) for attempt in row["attempts"]],
        nodes=row["nodes"],
    )


def make_records(
    searched: Sequence[Searched],
    strategy: SearchStrategy,
    engine: Engine,
    form: ThinkingFormat,
    policy: Mapping[str, Any],
) -> list[Record]:
    """Verify the candidates of problems and choose their answers."""
    rules = parse_policy(dict(policy))
    drawn = [
        (one.tree.problem, one.tree.prompt, index, node.seed, _generation(node))
        for one in searched
        for index, node in enumerate(one.candidates)
    ]
    attempts = make_attempts(drawn, engine, form, rules)
    groups, start = [], 0
    for one in searched:
        groups.append(attempts[start : start + len(one.candidates)])
        start += len(one.candidates)
    classes = answer_classes([[a.extracted or None for a in group] for group in groups], rules)
    return [
        Record(
            result=_result(one, group, own, strategy),
            attempts=group,
            nodes=_node_rows(one, strategy.title),
        )
        for one, group, own in zip(searched, groups, classes, strict=True)
    ]


def _generation(node: Any) -> Generation:
    return Generation(
        token_ids=node.path_ids, text=node.path_text, finish_reason="stop" if node.end == "stop" else "length"
    )


def _result(
    one: Searched, attempts: Sequence[Attempt], classes: Sequence[int], strategy: SearchStrategy
) -> SearchResult:
    scores = [node.score for node in one.candidates]
    return SearchResult(
        problem=one.tree.problem,
        setting=strategy.title,
        strategy=strategy.label,
        n=strategy.n,
        width=strategy.children,
        classes=tuple(classes),
        scores=tuple(scores),
        correct=tuple(attempt.verdict == "correct" for attempt in attempts),
        tokens=tuple(node.tokens for node in one.candidates),
        nodes=tuple(node.number for node in one.candidates),
        chosen=choose(classes, scores),
        cost=one.cost,
        options=strategy.options,
    )


def _node_rows(one: Searched, setting: str) -> list[dict[str, Any]]:
    return [
        {
            "id": one.tree.problem.id,
            "setting": setting,
            "node": node.number,
            "parent": -1 if node.parent is None else node.parent.number,
            "text": node.text,
            "end": node.end,
            "tokens": len(node.token_ids),
            "forced": node.forced,
            "cut": node.cut,
            "score": node.score,
        }
        for node in one.tree.nodes
    ]
