"""What the search of one problem came to: candidates, the answers chosen from them, and the cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from data.schema import Problem, problem_from_row, problem_row

CHOICES = ("majority", "best_of_n", "weighted_best_of_n")
"""How an answer is chosen: most votes, highest score, highest sum of scores (arXiv 2408.03314)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one search took; of the whole tree, not of the winner."""

    prompt_tokens: int
    generated_tokens: int
    forced_tokens: int
    """Put in, such as the "Wait" of revisions."""
    scorer_tokens: float
    """Tokens that the scorer forwarded, of calls for several problems in proportion to their new text."""
    policy_flops: float
    """2 x parameters x tokens, and attention; nan where the model is not known."""
    scorer_flops: float
    seconds: float
    """Its share of the time of all rounds, by generated tokens: sums to the time of the whole run."""
    latency_seconds: float
    """From its start to its end, beside other problems."""
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """One search of one problem."""

    problem: Problem
    setting: str
    """Name of strategy and options, such as "beam n=16 width=4"; one of a stage's."""
    strategy: str
    n: int
    width: int
    """1 where the strategy has none."""
    classes: tuple[int, ...]
    """One for each candidate: equal answers have the same number; -1 where there is no answer."""
    scores: tuple[float, ...]
    """Of the candidates; nan without a scorer."""
    correct: tuple[bool, ...]
    tokens: tuple[int, ...]
    """Of each candidate's path."""
    nodes: tuple[int, ...]
    """Number of each candidate's last node in the tree."""
    chosen: Mapping[str, int]
    """Index of a candidate with the chosen answer for each of CHOICES, -1 where there is none."""
    cost: Cost
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the strategy."""

    def right(self, choice: str) -> bool:
        """Whether the answer of a choice is correct; no answer is wrong."""
        place = self.chosen[choice]
        return place >= 0 and self.correct[place]


def result_row(result: SearchResult) -> dict[str, Any]:
    """Row of a searches table."""
    row = {f.name: getattr(result, f.name) for f in fields(SearchResult)}
    row |= {name: list(row[name]) for name in ("classes", "scores", "correct", "tokens", "nodes")}
    del row["problem"], row["cost"], row["chosen"]
    row["options"] = json.dumps(dict(result.options), sort_keys=True)
    return {**problem_row(result.problem), **row, **result.chosen, **asdict(result.cost)}


def result_from_row(row: Mapping[str, Any]) -> SearchResult:
    """Inverse of `result_row`."""
    lists: dict[str, Any] = {
        name: tuple(row[name]) for name in ("classes", "scores", "correct", "tokens", "nodes")
    }
    plain: dict[str, Any] = {name: row[name] for name in ("setting", "strategy", "n", "width")}
    return SearchResult(
        problem=problem_from_row(row),
        **plain,
        **lists,
        chosen={choice: row[choice] for choice in CHOICES},
        cost=Cost(**{f.name: row[f.name] for f in fields(Cost)}),
        options=json.loads(row["options"]),
    )
