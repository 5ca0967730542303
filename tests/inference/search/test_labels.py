"""Step labels from search trees."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from inference.search.driver import search
from inference.search.journals import all_records, journal_of
from inference.search.labels import labelled_candidates
from inference.search.records import Record, make_records, record_from_row, record_row
from inference.search.strategies.beam import Beam
from inference.search.strategies.parallel import BestOfN
from inference.search.strategies.strategy import SearchStrategy
from tests.inference.search.digits import FORM, DigitPolicy, DigitScorer, chance, search_budget, tasks


def records(tokenizer: Any, strategy: SearchStrategy) -> list[Record]:
    policy, scorer = DigitPolicy(tokenizer, depth=2), DigitScorer(chance)
    found = search(tasks(tokenizer, 5, answer="01"), policy, scorer, strategy, search_budget(), FORM)
    return [r for batch in found for r in make_records(batch, strategy, policy, FORM, {})]


def test_a_step_is_worth_the_share_of_right_ones_behind_it(tokenizer: Any) -> None:
    for record in records(tokenizer, Beam(n=8, width=4)):
        texts = [attempt.completion.text for attempt in record.attempts]
        right = [attempt.verdict == "correct" for attempt in record.attempts]
        assert right == ["{01}" in text for text in texts]
        parents = {row["node"]: row["parent"] for row in record.nodes}
        starts = [self_and_above(node, parents) for node in record.result.nodes]
        rows = list(labelled_candidates(record, FORM, "\n"))
        assert len(rows) == len(set(texts))
        for row in rows:
            place = texts.index("\n".join(row.steps))
            above = starts[place]  # from the last node up
            for step, label in enumerate(row.labels[:-1]):
                node = above[len(row.steps) - 1 - step]
                behind = [flag for flag, path in zip(right, starts, strict=True) if node in path]
                assert label is not None
                assert math.isclose(label, sum(behind) / len(behind))
            assert row.labels[-1] == right[place]


def self_and_above(node: int, parents: dict[int, int]) -> list[int]:
    path = []
    while node > 0:
        path.append(node)
        node = parents[node]
    return path


def test_steps_within_a_whole_completion_have_no_label(tokenizer: Any) -> None:
    for record in records(tokenizer, BestOfN(n=4)):
        for solution in labelled_candidates(record, FORM, "\n"):
            assert solution.labels[:-1] == (None, None)
            assert solution.labels[-1] in (0.0, 1.0)


def test_searches_that_are_in_no_journal_are_told(tokenizer: Any, tmp_path: Path) -> None:
    [record, other] = records(tokenizer, BestOfN(n=2))[:2]
    with journal_of(tmp_path, 0, 0) as journal:
        journal.append([record_row(record)])
    ids = [each.result.problem.id for each in (record, other)]
    [seen] = all_records(tmp_path, 1, ids[:1])
    assert seen.result.problem == record.result.problem
    with pytest.raises(OSError, match=r"1 of 2 searches are in no journal"):
        list(all_records(tmp_path, 1, ids))


def test_a_record_survives_the_journal(tokenizer: Any) -> None:
    for record in records(tokenizer, Beam(n=4, width=2)):
        assert record_from_row(record_row(record)) == record or math.isnan(record.result.cost.policy_flops)
