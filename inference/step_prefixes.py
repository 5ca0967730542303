"""The beginnings of solutions that are rolled out, and the labels that follow from their rollouts.

The attempts of one problem make a tree: two of them that begin with the same steps share those prefixes. An
attempt is a rollout of each of its prefixes, and a right completion of a prefix is one of every shorter
prefix too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from data.prompts import Prompt
from data.schema import Attempt, Problem, Rejected, attempt_row, rejected
from data.steps import fault, steps_of
from data.thinking import ThinkingFormat

Labeller = Literal["monte_carlo_hard", "monte_carlo_soft", "binary_search"]


@dataclass(kw_only=True, slots=True)
class Tally:
    """How completions of a prefix ended."""

    right: int = 0
    wrong: int = 0
    unverifiable: int = 0
    tokens: int = 0
    """That were generated for them."""

    @property
    def rollouts(self) -> int:
        return self.right + self.wrong + self.unverifiable

    def add(self, other: Tally) -> None:
        for f in fields(Tally):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass(eq=False)
class Prefix:
    """The beginning of one attempt or several: a problem's prompt and the text up to the end of a step."""

    problem: Problem
    prompt: Prompt
    source: str
    """A text that begins with this prefix."""
    end: int
    """Where the prefix ends in it."""
    key: str
    """Hash of the prefix, the same wherever it comes from."""
    parent: Prefix | None
    """The prefix that is one step shorter."""
    served: Tally = field(default_factory=Tally)
    """Attempts that begin with it."""
    drawn: Tally = field(default_factory=Tally)
    """Its rollouts."""
    known_right: int = 0
    """Right completions that are known of it, or of the longer prefix that has most of them."""

    @property
    def text(self) -> str:
        return self.source[: self.end]

    def record(self, tally: Tally, *, drawn: bool) -> None:
        """Take in completions: rollouts that were drawn, or attempts."""
        (self.drawn if drawn else self.served).add(tally)
        right, prefix = self.served.right + self.drawn.right, self
        while prefix is not None and prefix.known_right < right:
            prefix.known_right, prefix = right, prefix.parent


@dataclass(eq=False)
class Solution:
    """An attempt in steps."""

    attempt: Attempt
    steps: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    """Up to the end of each step but the last, whose value is the attempt's own verdict."""

    @cached_property
    def right(self) -> bool:
        return self.attempt.verdict == "correct"


def make_solutions(
    attempts: Iterable[Attempt],
    prompts: dict[str, Prompt],
    tokenizer: Any,
    form: ThinkingFormat,
    separator: str,
    max_tokens: int,
) -> tuple[list[Solution], list[Rejected]]:
    """The attempts of the problems that have a prompt, in their trees, and those that cannot be labelled.

    Rules: unverifiable; those of `data.steps.fault`; other_prompt (the text does not begin as the prompt
    opens it); other_tokens (the tokenizer does not give the text back); overlong (fewer than one of
    `max_tokens` is left behind the last prefix).
    """
    solutions: list[Solution] = []
    bad: list[Rejected] = []
    known: dict[tuple[str, str], Prefix] = {}
    for attempt in attempts:
        if attempt.problem.id not in prompts:
            continue
        prompt, text = prompts[attempt.problem.id], attempt.completion.text
        steps = steps_of(text, form, separator)
        texts, ends = [step.text for step in steps], [step.end for step in steps[:-1]]
        why = _unusable(attempt, texts, separator) or _misfit(text, ends, prompt, tokenizer, max_tokens)
        if why is not None:
            bad.append(rejected(attempt_row(attempt), *why))
            continue
        solution = Solution(attempt, tuple(texts), _prefixes(attempt, prompt, ends, known))
        tally = Tally(right=solution.right, wrong=not solution.right)
        for prefix in solution.prefixes:
            prefix.record(tally, drawn=False)
        solutions.append(solution)
    return solutions, bad


def _unusable(attempt: Attempt, steps: Sequence[str], separator: str) -> tuple[str, str] | None:
    if attempt.verdict == "unverifiable":
        return "unverifiable", f"gold {attempt.problem.answer!r}, extracted {attempt.extracted!r}"
    return fault(steps, [0.0] * len(steps), separator)


def _misfit(
    text: str, ends: Sequence[int], prompt: Prompt, tokenizer: Any, max_tokens: int
) -> tuple[str, str] | None:
    if not text.startswith(prompt.prefill):
        return "other_prompt", f"the prompt ends with {prompt.prefill!r}, the completion lacks it"
    written = text[len(prompt.prefill) :]
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids) != written:
        return "other_tokens", "the tokenizer of the policy does not give the text back"
    if ends and len(ids) >= max_tokens:
        longest = len(written_ids(tokenizer, text[: ends[-1]], prompt))
        if longest >= max_tokens:
            return "overlong", f"{longest} tokens before the last step, max_tokens is {max_tokens}"
    return None


def written_ids(tokenizer: Any, text: str, prompt: Prompt) -> list[int]:
    """The tokens of a completion's text behind its prompt."""
    return list(tokenizer(text[len(prompt.prefill) :], add_special_tokens=False)["input_ids"])


def _prefixes(
    attempt: Attempt, prompt: Prompt, ends: Sequence[int], known: dict[tuple[str, str], Prefix]
) -> tuple[Prefix, ...]:
    """The prefixes of an attempt, shared with those of its problem that are known."""
    text, problem = attempt.completion.text, attempt.problem
    digest, start = hashlib.sha256(), 0
    parent: Prefix | None = None
    prefixes = []
    for end in ends:
        digest.update(text[start:end].encode("utf-8", "surrogatepass"))
        key = digest.hexdigest()[:32]
        parent = known.setdefault((problem.id, key), Prefix(problem, prompt, text, end, key, parent))
        prefixes.append(parent)
        start = end
    return tuple(prefixes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """Which prefixes are rolled out, and which labels follow."""

    labeller: Labeller
    """monte_carlo_hard: whether right completions of the prefix are known (arXiv 2312.08935 eq. 3).
    monte_carlo_soft: the share of right ones (eq. 4). binary_search: 1 before the first step behind which
    none are known, 0 at it (arXiv 2406.06592 section 3.2)."""
    rollouts: int
    """Completions of a prefix."""
    min_right: int = 1
    """Right completions that make a prefix right, of hard labels."""
    count_attempts: bool = True
    """Soft labels: whether attempts that begin with the prefix are among them; otherwise they always are."""

    @property
    def soft(self) -> bool:
        return self.labeller == "monte_carlo_soft"

    def is_right(self, prefix: Prefix) -> bool:
        """Whether enough right completions of a prefix are known."""
        return prefix.known_right >= self.min_right

    def missing(self, prefix: Prefix) -> int:
        """Rollouts that a prefix still lacks."""
        if self.is_right(prefix) and not self.soft:
            return 0
        return max(0, self.rollouts - self._counted(prefix).rollouts)

    def wave(self, prefix: Prefix) -> int:
        """How many of them are drawn next: where a few right completions are enough, half of them first."""
        missing = self.missing(prefix)
        return missing if self.soft or prefix.drawn.rollouts else -(-missing // 2)

    def wanted(self, solution: Solution) -> list[Prefix]:
        """The prefixes of which rollouts are drawn next."""
        if self.labeller != "binary_search":
            return [prefix for prefix in solution.prefixes if self.missing(prefix)]
        low, high = self._bounds(solution)
        return [] if low == high else [solution.prefixes[(low + high) // 2]]

    def most_left(self, solutions: Iterable[Solution]) -> int:
        """Rollouts that may be drawn yet."""
        if self.labeller != "binary_search":
            return sum(map(self.missing, {p: None for s in solutions for p in s.prefixes}))
        bounds = [self._bounds(solution) for solution in solutions]
        return sum((high - low).bit_length() for low, high in bounds) * self.rollouts

    def labels(self, solution: Solution) -> tuple[float | None, ...]:
        """One for each step, when nothing is wanted any more. None: behind the first error (binary_search),
        or no completion could be verified."""
        verdict = float(solution.right)
        if self.labeller != "binary_search":
            return (*map(self._value, solution.prefixes), verdict)
        low, high = self._bounds(solution)
        assert low == high, "the search is not finished"
        values = (*map(self._value, solution.prefixes[: high + 1]), verdict)[: high + 1]
        return (*values, *[None] * (len(solution.steps) - len(values)))

    def _bounds(self, solution: Solution) -> tuple[int, int]:
        """The first step from which too few right completions are known is one of these or between them."""
        low = sum(map(self.is_right, solution.prefixes))
        behind = range(low, len(solution.prefixes))
        settled = (i for i in behind if not self.missing(solution.prefixes[i]))
        return low, next(settled, len(solution.prefixes))

    def _counted(self, prefix: Prefix) -> Tally:
        if self.soft and not self.count_attempts:
            return prefix.drawn
        both = Tally()
        both.add(prefix.served)
        both.add(prefix.drawn)
        return both

    def _value(self, prefix: Prefix) -> float | None:
        if self.is_right(prefix) and not self.soft:
            return 1.0
        counted = self._counted(prefix)
        decided = counted.right + counted.wrong
        if not decided:
            return None
        return counted.right / decided if self.soft else 0.0
