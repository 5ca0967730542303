"""What a GRPO step generates: completions, their groups, and what is told of each completion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from data.language import language_share
from data.rollouts import Rollout
from data.schema import Outcome
from data.thinking import thinking_format
from rewards.checked import domains_of, only
from rewards.format import Format
from rewards.registry import Reward
from rewards.texts import Turn, splits
from rewards.verify import Verdict
from training.questions import Questions


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is told of a completion beside its rewards."""

    extracted: str
    rule: str
    formatted: bool
    language_share: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One completion, on any process."""

    token_ids: list[int]
    text: str
    truncated: bool
    logprobs: list[float] | None
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Group:
    """All completions of one question in one step."""

    question: int
    """Its index."""
    rows: list[Drawn]
    rewards: list[list[float]]
    """For each completion its rewards in the recipe's order, before weights; NaN where one does not apply."""
    totals: list[float]
    """Their weighted sums; NaN where none applies."""
    verdicts: list[Outcome]
    useful: bool
    """Whether its completions have different rewards, so that there is something to learn."""
    checkable: bool = True
    """Whether a reward tells for this question what is right; else no verdict of it counts for anything."""

    @property
    def right(self) -> list[bool]:
        return [verdict == "correct" for verdict in self.verdicts]


class Reader:
    """Reads facts off completions with the recipe's rewards and thinking format."""

    def __init__(
        self, rewards: Sequence[Reward], format_name: str, *, prefilled: bool, language: str | None
    ) -> None:
        self.names = [reward.name for reward in rewards]
        self.rewards = rewards
        self.format_name = thinking_format(format_name).name
        self.prefilled = prefilled
        self.language = language
        self.form = Format(thinking_format=format_name, thinking_prefilled=prefilled)

    def facts(self, completions: Sequence[Turn], columns: dict[str, Any]) -> list[Facts]:
        """Facts of completions whose rewards were just computed, so that they are not verified again."""
        formatted = self.form(completions=completions)
        parts = splits(completions, self.format_name, self.prefilled)
        verdicts = self._verdicts(completions, columns)
        return [
            Facts(
                extracted=verdict.extracted if verdict else "",
                rule=verdict.rule if verdict else "",
                formatted=form == 1,
                language_share=language_share(part.thinking, self.language) if self.language else None,
            )
            for form, part, verdict in zip(formatted, parts, verdicts, strict=True)
        ]

    def _verdicts(self, completions: Sequence[Turn], columns: dict[str, Any]) -> list[Verdict | None]:
        """What a reward that reads answers says of each completion, None where none does."""
        count = len(completions)
        graders = [self._grader(domain) for domain in domains_of(columns, count)]
        verdicts: list[Verdict | None] = [None] * count
        for grader in {index for index in graders if index is not None}:
            rows = [row for row, index in enumerate(graders) if index == grader]
            kept = only(rows, {**columns, "completions": completions}, count)
            function: Any = self.rewards[grader].function
            for row, verdict in zip(rows, function.verdicts(kept.pop("completions"), kept), strict=True):
                verdicts[row] = verdict
        return verdicts

    def _grader(self, domain: str) -> int | None:
        """Index of the reward that reads answers to questions of a domain: the one that tells what is right,
        where it does."""
        first = correctness_column(self.rewards, domain)
        order = sorted(range(len(self.rewards)), key=lambda index: index != first)
        readers = (i for i in order if hasattr(self.rewards[i].function, "verdicts"))
        return next((i for i in readers if self.rewards[i].applies_to(domain)), None)

    def is_checkable(self, domain: str) -> bool:
        """Whether a reward tells what is right for questions of this domain."""
        return correctness_column(self.rewards, domain) is not None

    def verdict(self, rewards: Sequence[float], domain: str = "") -> Outcome:
        """Of a completion with these rewards: correct where the one that tells it is 1 or more, unverifiable
        where none does."""
        column = correctness_column(self.rewards, domain)
        value = math.nan if column is None else rewards[column]
        return "unverifiable" if math.isnan(value) else "correct" if value >= 1 else "wrong"


def correctness_column(rewards: Sequence[Reward], domain: str = "") -> int | None:
    """Index of the reward that says whether an answer to a question of this domain is right: the first that
    claims to, or where no reward at all does, the first that does not deny it. None where it does not apply
    to the domain."""
    claims = [getattr(reward.function, "tells_right", None) for reward in rewards]
    telling = [i for i, claim in enumerate(claims) if claim]
    telling = telling or [i for i, claim in enumerate(claims) if claim is None][:1]
    return next((i for i in telling if rewards[i].applies_to(domain)), None)


def is_useful(
    rewards: Sequence[Sequence[float]],
    totals: Sequence[float],
    weights: Sequence[float],
    aggregation: str = "sum_then_normalize",
) -> bool:
    """Whether a group gives any advantage: its totals differ or, where each reward is normalised by itself
    (`normalize_then_sum`), any of its rewards with a weight does."""
    columns: list[Sequence[float]] = [totals]
    if aggregation == "normalize_then_sum":
        by_reward = zip(zip(*rewards, strict=True), weights, strict=True)
        columns = [column for column, weight in by_reward if weight]
    return any(_spread(column) > 1e-6 for column in columns)


def _spread(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known) - min(known) if known else 0.0


def choose_groups(groups: Sequence[Group], wanted: int) -> list[Group]:
    """The groups to train on, in the order in which they were drawn: useful ones, others where too few
    are."""
    useful = [i for i, group in enumerate(groups) if group.useful]
    others = [i for i, group in enumerate(groups) if not group.useful]
    return [groups[i] for i in sorted((useful + others)[:wanted])]


def replacements(groups: Sequence[Group], wanted: int, multiple_of: int) -> int:
    """How many more groups to draw so that about `wanted` useful ones are expected; a multiple, 0 if
    enough."""
    useful = sum(group.useful for group in groups)
    missing = wanted - useful
    if missing <= 0:
        return 0
    share = max(useful / len(groups), 0.25)
    count = min(wanted, math.ceil(missing / share))
    return -(-count // multiple_of) * multiple_of


def to_rollouts(
    groups: Sequence[Group],
    *,
    step: int,
    questions: Questions,
    reward_names: Sequence[str],
    advantages: Callable[[Group], Sequence[float] | None],
) -> list[Rollout]:
    """Rows of the rollout log. `advantages` gives those of a group that is trained on, None for others."""
    rollouts = []
    for number, group in enumerate(groups):
        question, given = questions[group.question], advantages(group)
        for index, row in enumerate(group.rows):
            rewards = [None if math.isnan(value) else value for value in group.rewards[index]]
            total = group.totals[index]
            rollouts.append(
                Rollout(
                    step=step,
                    group=number,
                    index=index,
                    id=question.problem.id,
                    question=question.problem.question,
                    answer=question.problem.answer,
                    prompt=question.prompt.text,
                    text=question.prompt.prefill + row.text,
                    tokens=len(row.token_ids),
                    truncated=row.truncated,
                    extracted=row.facts.extracted,
                    rule=row.facts.rule,
                    verdict=group.verdicts[index],
                    formatted=row.facts.formatted,
                    language_share=row.facts.language_share,
                    rewards=dict(zip(reward_names, rewards, strict=True)),
                    reward=None if math.isnan(total) else total,
                    advantage=given[index] if given and group.useful else 0.0,
                    useful=group.useful,
                    trained=given is not None,
                )
            )
    return rollouts
