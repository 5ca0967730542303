"""What is watched in every step of a GRPO run, from all completions that were generated.

TRL's own metrics (`reward`, `rewards/...`, `completions/...`) are of the completions that are trained on;
with dynamic sampling those are chosen, so a curve of learning is drawn from `rollouts/...`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from rewards.compare import canonical_answer
from training.rollouts import Drawn, Group


def step_metrics(groups: Sequence[Group], trained: Sequence[Group]) -> dict[str, float]:
    """Metrics of one generation; NaN where there is nothing to count. What is right, wrong or unverifiable is
    counted in questions for which a reward tells it.

    Args:
        groups: all that were drawn.
        trained: those of them that are trained on.
    """
    rows = [row for group in groups for row in group.rows]
    checkable = [group for group in groups if group.checkable]
    judged = [pair for group in checkable for pair in zip(group.rows, group.right, strict=True)]
    wrong = [row for row, right in judged if not right]
    return {
        "rollouts/reward": mean(total for group in groups for total in group.totals),
        "rollouts/right": mean(right for _, right in judged),
        "rollouts/unverifiable": mean(v == "unverifiable" for group in checkable for v in group.verdicts),
        "rollouts/truncated": mean(row.truncated for row in rows),
        "rollouts/length": mean(len(row.token_ids) for row in rows),
        "rollouts/length_right": mean(len(row.token_ids) for row, right in judged if right),
        "rollouts/length_wrong": mean(len(row.token_ids) for row in wrong),
        "rollouts/formatted": mean(row.facts.formatted for row in rows),
        "rollouts/formatted_wrong": mean(row.facts.formatted and not right for row, right in judged),
        "rollouts/repeated_answer": _repeated_answer(wrong, len(judged)),
        "rollouts/language": mean(
            row.facts.language_share for row in rows if row.facts.language_share is not None
        ),
        "groups/drawn": float(len(groups)),
        "groups/useful": mean(group.useful for group in groups),
        "groups/all_right": mean(all(group.right) for group in checkable),
        "groups/all_wrong": mean(not any(group.right) for group in checkable),
        "groups/trained_useful": float(sum(group.useful for group in trained)),
        "groups/replaced": float(
            sum(not group.useful for group in groups) - sum(not g.useful for g in trained)
        ),
        "groups/surplus": float(sum(group.useful for group in groups) - sum(g.useful for g in trained)),
    }


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _repeated_answer(wrong: Sequence[Drawn], completions: int) -> float:
    """Share of so many completions that give the most common wrong answer: near 1 when a model has stopped to
    read the question."""
    answers = Counter(canonical_answer(row.facts.extracted) for row in wrong if row.facts.extracted)
    return answers.most_common(1)[0][1] / completions if answers else 0.0
