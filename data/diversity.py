"""Draws among the traces that passed every rule: one or more a problem, then a diverse set of a given size.

Every draw starts from an order that does not depend on how the rows were stored, and draws from a generator
of its own seed: the same traces and seed give the same set on any machine.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from data.field_values import parse_mapping
from data.filters import sort_key, trace_length
from data.schema import Attempt, Problem

logger = logging.getLogger(__name__)

TraceChoice = Literal["first", "shortest", "longest", "random", "median_correct"]
Diversity = Literal["s1", "uniform", "longest", "random"]
Phase = Literal["uniform_domain", "benchmark_domain", "no_benchmark_domain_left", "longest", "random"]


@dataclass(frozen=True, kw_only=True)
class SelectCondition:
    """Traces that are taken before anything is drawn."""

    source: str
    """Source of the problem; * stands for any text, as in *gpqa*."""
    min_thinking_tokens: int = 0
    """Shortest thinking that is taken (s1 takes MATH rows above 5600 tokens: 5601)."""
    require_correct: bool = True
    """Take only traces whose verdict is correct."""

    def holds(self, trace: Attempt) -> bool:
        return (
            fnmatchcase(trace.problem.source, self.source)
            and trace_length(trace) >= self.min_thinking_tokens
            and (trace.verdict == "correct" or not self.require_correct)
        )


def parse_conditions(entries: Sequence[Any], key: str) -> list[SelectCondition]:
    """Conditions of a recipe, `{source: .., min_thinking_tokens: .., require_correct: ..}` each.

    Raises:
        ValueError: an entry without a source, with an unknown key or a wrong type; names it.
    """
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not entry.get("source"):
            raise ValueError(f'{key}[{index}]: write `source: "*aime*"` in it, with * for any text')
    return [
        parse_mapping(SelectCondition, entry, f"{key}[{index}]", "a condition")
        for index, entry in enumerate(entries)
    ]


def auto_select(
    traces: Iterable[Attempt], conditions: Sequence[SelectCondition]
) -> tuple[list[Attempt], list[int]]:
    """Traces for which a condition holds, in the stored-order-free order, and how many each condition took.

    A trace counts for its first condition. Logs a condition that takes nothing.
    (simplescaling/s1@77272c6:data/filter.ipynb: all GPQA, all AIME, long MATH; correct ones only.)
    """
    selected, taken = [], [0] * len(conditions)
    for trace in _in_order(traces):
        for index, condition in enumerate(conditions):
            if condition.holds(trace):
                selected.append(trace)
                taken[index] += 1
                break
    for condition, count in zip(conditions, taken, strict=True):
        if not count:
            logger.warning("auto_select takes no trace of %s: check `source`", condition)
    return selected, taken


def benchmark_weights(benchmarks: Iterable[tuple[Iterable[Problem], float]]) -> dict[str, float]:
    """Weight of each domain: every benchmark's domain shares times its weight.

    s1: AIME with weight 1 and GPQA with 0.5, which is the AIME histogram plus the GPQA histogram scaled to
    0.5 |AIME| / |GPQA|, up to a common factor (simplescaling/s1@77272c6:data/filter.ipynb).

    Raises:
        ValueError: a benchmark of which no problem has a domain, or a weight that is not above 0.
    """
    weights: defaultdict[str, float] = defaultdict(float)
    for problems, weight in benchmarks:
        domains = [problem.domain for problem in problems if problem.domain]
        if not domains:
            raise ValueError("benchmark_weights: no problem of a benchmark has a domain; label its domains")
        if not weight > 0 or math.isinf(weight):
            raise ValueError(f"benchmark_weights: {weight} is not a number above 0")
        for domain in sorted(domains):
            weights[domain] += weight / len(domains)
    return dict(weights)


def some_per_problem(
    traces: Iterable[Attempt], choice: TraceChoice, seed: int, count: int = 1
) -> list[Attempt]:
    """At most `count` traces of each problem, by problem id; the draw of one problem does not move another's.

    The choice is made again among those left, whose text (thinking and response) is another than that of the
    ones taken. `median_correct` takes the median length among the correct traces (the shorter of two), among
    all where none is correct (logged).
    """
    of_problem: defaultdict[str, list[Attempt]] = defaultdict(list)
    for trace in _in_order(traces):
        of_problem[trace.problem.id].append(trace)
    groups = of_problem.values()
    chosen = []
    for left in _correct_groups(groups) if choice == "median_correct" else groups:
        rng = random.Random(f"{seed}:trace:{left[0].problem.id}") if choice == "random" else None
        for _ in range(count):
            if left:
                chosen.append(_pick(left, choice, rng))
                left = [trace for trace in left if _text(trace) != _text(chosen[-1])]
    return chosen


def _pick(traces: Sequence[Attempt], choice: TraceChoice, rng: random.Random | None) -> Attempt:
    if rng is not None:
        return rng.choice(traces)
    if choice == "first":
        return traces[0]
    if choice == "median_correct":
        return sorted(traces, key=trace_length)[(len(traces) - 1) // 2]
    return (min if choice == "shortest" else max)(traces, key=trace_length)


def _text(trace: Attempt) -> tuple[str, str]:
    return trace.completion.thinking.strip(), trace.completion.response.strip()


def _correct_groups(groups: Iterable[list[Attempt]]) -> list[list[Attempt]]:
    correct = [([t for t in group if t.verdict == "correct"], group) for group in groups]
    without = sum(not right for right, _ in correct)
    if without:
        logger.warning("median_correct: %d problems have no correct trace; median of all", without)
    return [right or group for right, group in correct]


def draw(
    traces: Iterable[Attempt],
    size: int,
    diversity: Diversity,
    seed: int,
    *,
    selected: Sequence[Attempt] = (),
    domain_weights: Mapping[str, float] | None = None,
    phase_one_share: float = 0.7,
) -> list[Attempt]:
    """`selected`, then traces as `draw_phases` draws them, up to `size` together; all where there are fewer.

    Raises:
        ValueError: see `draw_phases`.
    """
    phases = draw_phases(
        traces,
        size,
        diversity,
        seed,
        selected=selected,
        domain_weights=domain_weights,
        phase_one_share=phase_one_share,
    )
    return [*selected, *(trace for _, trace in phases)]


def draw_phases(
    traces: Iterable[Attempt],
    size: int,
    diversity: Diversity,
    seed: int,
    *,
    selected: Sequence[Attempt] = (),
    domain_weights: Mapping[str, float] | None = None,
    phase_one_share: float = 0.7,
) -> list[tuple[Phase, Attempt]]:
    """What is drawn to fill `selected` up to `size`, in order, without replacement, each with its phase.

    `s1` (simplescaling/s1@77272c6:data/filter.ipynb) draws a domain, then inside it the trace of rank r with
    weight 2^-r, rank 0 the longest. While the set has fewer than `phase_one_share` * `size` traces, or where
    no `domain_weights` are given, domains are drawn uniformly, then by their weight; where no domain with a
    weight is left, uniformly again (phase `no_benchmark_domain_left`). `uniform` does the same and draws
    uniformly inside the domain, `longest` takes the longest, `random` draws among all. Traces without
    a domain are one domain.

    Raises:
        ValueError: more selected than `size`, a weight or a length that is not a number from 0, a share
            outside 0 to 1.
    """
    weights = _checked(domain_weights or {}, phase_one_share)
    if len(selected) > size:
        raise ValueError(f"auto_select takes {len(selected)} traces, size is {size}; narrow its conditions")
    missing = size - len(selected)
    taken = {id(trace) for trace in selected}
    ordered = [trace for trace in _in_order(traces) if id(trace) not in taken]
    _check_lengths(ordered)
    rng = random.Random(f"{seed}:draw:{diversity}")
    if diversity == "random":
        return [("random", trace) for trace in rng.sample(ordered, min(missing, len(ordered)))]
    ordered.sort(key=trace_length, reverse=True)
    if diversity == "longest":
        return [("longest", trace) for trace in ordered[:missing]]
    of_domain: defaultdict[str, list[Attempt]] = defaultdict(list)
    for trace in reversed(ordered):  # the longest last: taken from the end in constant time
        of_domain[trace.problem.domain].append(trace)
    phase_one = math.ceil(phase_one_share * size - 1e-9) - len(selected) if weights else missing
    pools = _Pools(rng, of_domain, weights)
    take = pools.take_long if diversity == "s1" else pools.take_any
    drawn: list[tuple[Phase, Attempt]] = []
    while pools.domains and len(drawn) < missing:
        phase, domain = pools.domain(weighted=len(drawn) >= phase_one)
        drawn.append((phase, take(domain)))
    return drawn


class _Pools:
    """Traces by domain, the shortest first, and draws from them."""

    def __init__(
        self, rng: random.Random, of_domain: Mapping[str, list[Attempt]], weights: Mapping[str, float]
    ) -> None:
        self.rng, self.of_domain, self.weights = rng, of_domain, weights
        self.domains = sorted(of_domain)

    def domain(self, weighted: bool) -> tuple[Phase, str]:
        if not weighted or not self.weights:
            return "uniform_domain", self.rng.choice(self.domains)
        weights = [self.weights.get(domain, 0.0) for domain in self.domains]
        if not any(weights):
            return "no_benchmark_domain_left", self.rng.choice(self.domains)
        return "benchmark_domain", self.rng.choices(self.domains, weights)[0]

    def take_long(self, domain: str) -> Attempt:
        left = self.of_domain[domain]
        return self._emptied(domain, left.pop(-1 - _geometric_rank(self.rng, len(left))))

    def take_any(self, domain: str) -> Attempt:
        left = self.of_domain[domain]
        index = self.rng.randrange(len(left))
        left[index], left[-1] = left[-1], left[index]
        return self._emptied(domain, left.pop())

    def _emptied(self, domain: str, trace: Attempt) -> Attempt:
        if not self.of_domain[domain]:
            self.domains.remove(domain)
        return trace


def _geometric_rank(rng: random.Random, count: int) -> int:
    """r in 0..count-1 with probability proportional to 2^-r."""
    while True:
        rank = 0
        while rng.random() < 0.5:
            rank += 1
        if rank < count:
            return rank


def _in_order(traces: Iterable[Attempt]) -> list[Attempt]:
    return sorted(traces, key=lambda trace: (*sort_key(trace), trace.completion.response))


def _checked(weights: Mapping[str, float], phase_one_share: float) -> Mapping[str, float]:
    if not 0 <= phase_one_share <= 1:
        raise ValueError(f"phase_one_share: {phase_one_share} is not from 0 to 1")
    for domain, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"domain_weights.{domain}: {weight} is not a number from 0")
    return weights


def _check_lengths(traces: Sequence[Attempt]) -> None:
    """Refuse lengths that cannot be ranked; log lengths in different units and domains that are missing."""
    uncounted = 0
    for trace in traces:
        tokens: float | None = trace.completion.thinking_tokens
        if tokens is None or not 0 <= tokens < math.inf:
            raise ValueError(
                f"thinking_tokens of problem {trace.problem.id} is {tokens}; write 0 where nobody counted"
            )
        uncounted += tokens == 0 and bool(trace.completion.thinking)
    if 0 < uncounted < len(traces):
        logger.warning("%d of %d traces are ranked by words: no token count", uncounted, len(traces))
    nameless = sum(not trace.problem.domain for trace in traces)
    if nameless:
        logger.warning("%d of %d traces have no domain and count as one", nameless, len(traces))
