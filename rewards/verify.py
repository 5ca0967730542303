"""Answer verification: does a response give the gold answer?

`verify` reads the answer from a response (`rewards.extract`) and compares it with the gold answer in tiers,
cheapest first: normalised strings, choice letters, exact numbers, the parts of lists, sets, intervals,
matrices, equations and inequalities, the values of expressions. What these cannot decide goes to math-verify
and sympy in worker processes (`rewards.algebra`). What nobody can decide, such as two sentences, is
`unverifiable`, never `wrong`.

Nothing here raises on any text, and time is bounded by the text's length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.heartbeat import phase
from data.schema import Outcome
from rewards import algebra
from rewards.compare import canonical_answer, compare_answers
from rewards.extract import extract_answers, gold_answer
from rewards.normalise import choice, named, normalise
from rewards.number import number
from rewards.policy import DEFAULT_POLICY, Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What verification says about one response."""

    outcome: Outcome
    extracted: str
    """The answer that was read from the response, empty where there is none."""
    rule: str
    """The rule that decided (string, choice, number, list, interval, expression, algebra, ...), or why none
    did (undecided, timeout, no_gold)."""
    seconds: float


def verify(gold: str, completion: str, policy: Policy = DEFAULT_POLICY) -> Verdict:
    """Grade the response part of a completion (what follows the thinking) against the gold answer.

    No answer in the response is `wrong` (rule no_answer); an empty gold is `unverifiable` (no_gold).
    """
    return verify_many([gold], [completion], policy)[0]


@phase("reward")
def verify_many(
    golds: Sequence[str],
    completions: Sequence[str],
    policy: Policy = DEFAULT_POLICY,
    limits: algebra.Limits = algebra.DEFAULT_LIMITS,
) -> list[Verdict]:
    """`verify` for a batch, in order. Never blocks longer than `limits.batch_seconds` for the last tier,
    which runs in `limits.processes` worker processes; what is not decided by then is `unverifiable` (rule
    timeout)."""
    end = time.monotonic() + limits.batch_seconds
    verdicts = [_exact(gold, text, policy) for gold, text in zip(golds, completions, strict=True)]
    return _decided([gold_answer(gold) for gold in golds], verdicts, limits, end)


@phase("reward")
def compare_many(
    golds: Sequence[str],
    answers: Sequence[str],
    policy: Policy = DEFAULT_POLICY,
    limits: algebra.Limits = algebra.DEFAULT_LIMITS,
) -> list[Verdict]:
    """`verify_many` for answers that were already read from their responses, each against a bare gold
    answer."""
    end = time.monotonic() + limits.batch_seconds
    verdicts = [_compared(gold, answer, policy) for gold, answer in zip(golds, answers, strict=True)]
    return _decided(golds, verdicts, limits, end)


def _decided(
    golds: Sequence[str], verdicts: list[Verdict], limits: algebra.Limits, end: float
) -> list[Verdict]:
    """The verdicts with what the last tier says, until `end` (of time.monotonic), about the undecided."""
    open_rows = [row for row, verdict in enumerate(verdicts) if verdict.rule == "undecided"]
    pairs = [(golds[row], verdicts[row].extracted) for row in open_rows]
    for row, decision in zip(open_rows, algebra.decide(pairs, limits, end), strict=True):
        seconds = verdicts[row].seconds + decision.seconds
        verdicts[row] = replace(verdicts[row], outcome=decision.outcome, rule=decision.rule, seconds=seconds)
    return verdicts


def _compared(gold: str, answer: str, policy: Policy) -> Verdict:
    """Verdict of all tiers but the last on an answer that was already read."""
    start = time.perf_counter()
    outcome, rule = compare_answers(gold, answer, policy)
    return Verdict(outcome=outcome, extracted=answer, rule=rule, seconds=time.perf_counter() - start)


def _exact(gold: str, completion: str, policy: Policy) -> Verdict:
    """Verdict of all tiers but the last."""
    start = time.perf_counter()
    gold = gold_answer(gold)
    rules = policy.extract if choice(normalise(gold)) else tuple(r for r in policy.extract if r != "choice")
    answers, found_by = extract_answers(completion, rules)
    answer = answers[-1] if answers else ""
    outcome, rule = compare_answers(gold, answer, policy)
    if policy.several_answers and len({canonical_answer(each) for each in answers}) > 1:
        outcome, rule = policy.several_answers, "several_answers"
    if outcome == "wrong" and found_by == "last_number" and number(named(normalise(gold))[1]) is None:
        outcome, rule = "unverifiable", "last_number"  # a number in passing says nothing about such a gold
    return Verdict(outcome=outcome, extracted=answer, rule=rule, seconds=time.perf_counter() - start)
