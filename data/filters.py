"""Rules that drop traces, and draws that choose among the ones that pass.

A rule takes a trace and returns the evidence against it, or None when it passes. Lengths are `trace_length`:
the trace's thinking tokens, or its words where no token count is known (solutions written by people).
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from data.schema import Attempt, Rejected, attempt_row, rejected
from data.thinking import ThinkingFormat

Rule = Callable[[Attempt], str | None]
TraceChoice = Literal["first", "shortest", "longest", "random"]
Diversity = Literal["s1", "uniform", "longest", "random"]

_IMAGE = re.compile(r"!\[[^\]\n]{0,500}\]\([^)\n]{0,2000}\)|\[asy\]")


def trace_length(trace: Attempt) -> int:
    """Thinking tokens; words of the thinking where the token count is 0 because nobody counted."""
    return trace.completion.thinking_tokens or len(trace.completion.thinking.split())


def sort_key(trace: Attempt) -> tuple[str, int, str, int, str]:
    """An order that does not depend on how the rows were stored; every random draw starts from it."""
    completion = trace.completion
    return trace.problem.id, trace.index, completion.model, completion.seed, completion.thinking


def apply_rules(
    rules: Mapping[str, Rule], traces: Iterable[Attempt]
) -> tuple[list[Attempt], list[Rejected], Counter[str]]:
    """Traces that pass every rule; the others with the first rule that drops them; the count of each rule."""
    kept, dropped, counts = [], [], Counter(dict.fromkeys(rules, 0))
    for trace in traces:
        for name, rule in rules.items():
            evidence = rule(trace)
            if evidence is not None:
                dropped.append(rejected(attempt_row(trace), name, evidence))
                counts[name] += 1
                break
        else:
            kept.append(trace)
    return kept, dropped, counts


# ------------------------------------------------------------------ rules


def outside_pass_rates(rates: Mapping[str, float], low: float, high: float) -> tuple[Rule, Rule]:
    """(too hard, too easy) by the pass rate of the problem; problems without a rate pass."""

    def too_hard(trace: Attempt) -> str | None:
        rate = rates.get(trace.problem.id)
        return f"pass rate {rate:.3f} is below {low}" if rate is not None and rate < low else None

    def too_easy(trace: Attempt) -> str | None:
        rate = rates.get(trace.problem.id)
        return f"pass rate {rate:.3f} is above {high}" if rate is not None and rate > high else None

    return too_hard, too_easy


def not_correct(trace: Attempt) -> str | None:
    """The verdict is not `correct`."""
    if trace.verdict == "correct":
        return None
    return f"verdict {trace.verdict}, answer {trace.extracted!r}, gold {trace.problem.answer!r}"


def truncated(trace: Attempt) -> str | None:
    """The generation ended at its token limit."""
    completion = trace.completion
    cut = completion.finish_reason == "length"
    return f"cut off after {completion.completion_tokens} tokens" if cut else None


def empty_thinking(trace: Attempt) -> str | None:
    """The thinking is empty or white space."""
    return None if trace.completion.thinking.strip() else "no thinking"


def empty_response(trace: Attempt) -> str | None:
    """The response is empty or white space."""
    return None if trace.completion.response.strip() else "no response"


def image_in_question(trace: Attempt) -> str | None:
    """The question refers to a picture, which a text model cannot see."""
    match = _IMAGE.search(trace.problem.question)
    return f"question has {match[0]!r}" if match else None


def contains_tags(format: ThinkingFormat) -> Rule:
    """Thinking or response contain the format's own tags, so that it could not be read back."""

    def rule(trace: Attempt) -> str | None:
        for part in ("thinking", "response"):
            for tag in format.tags:
                if tag in getattr(trace.completion, part):
                    return f"{part} contains {tag!r}"
        return None

    return rule


def repetitive(ngram_words: int, max_share: float) -> Rule:
    """More than `max_share` of the thinking's word n-grams occurred before."""

    def rule(trace: Attempt) -> str | None:
        share, worst = repeated_share(trace.completion.thinking, ngram_words)
        evidence = f"{share:.2f} of the {ngram_words}-grams are repeats, most often {worst!r}"
        return evidence if share > max_share else None

    return rule


def repeated_share(text: str, ngram_words: int) -> tuple[float, str]:
    """Share in [0, 1) of word n-grams that occurred before in the text, and the most frequent n-gram."""
    words = text.split()
    grams = Counter(" ".join(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1))
    total = sum(grams.values())
    if not total:
        return 0.0, ""
    return 1 - len(grams) / total, grams.most_common(1)[0][0]


def shorter_than(tokens: int) -> Rule:
    """The thinking has fewer tokens."""

    def rule(trace: Attempt) -> str | None:
        length = trace_length(trace)
        return f"{length} < {tokens} tokens" if length < tokens else None

    return rule


def longer_than(tokens: int) -> Rule:
    """The thinking has more tokens."""

    def rule(trace: Attempt) -> str | None:
        length = trace_length(trace)
        return f"{length} > {tokens} tokens" if length > tokens else None

    return rule


# ------------------------------------------------------------------ draws


def one_per_problem(traces: Iterable[Attempt], choice: TraceChoice, seed: int) -> list[Attempt]:
    """One trace of each problem, by problem id; the draw of one problem does not move another's."""
    of_problem: defaultdict[str, list[Attempt]] = defaultdict(list)
    for trace in sorted(traces, key=sort_key):
        of_problem[trace.problem.id].append(trace)
    if choice == "random":
        return [random.Random(f"{seed}:trace:{id}").choice(group) for id, group in of_problem.items()]
    if choice == "first":
        return [group[0] for group in of_problem.values()]
    pick = min if choice == "shortest" else max
    return [pick(group, key=trace_length) for group in of_problem.values()]


def draw(traces: Iterable[Attempt], size: int, diversity: Diversity, seed: int) -> list[Attempt]:
    """`size` traces in the order in which they are drawn, without replacement; all where there are fewer.

    `s1` draws a domain uniformly, then inside it the trace of rank r with weight 2^-r, rank 0 the longest
    (simplescaling/s1@77272c6:data/filter.ipynb, without its second phase, which draws domains by the
    histogram of two benchmarks); `uniform` draws inside the domain uniformly; `longest` takes the longest,
    `random` draws among all.
    """
    ordered = sorted(traces, key=sort_key)
    rng = random.Random(f"{seed}:draw:{diversity}")
    if diversity == "random":
        return rng.sample(ordered, min(size, len(ordered)))
    ordered.sort(key=trace_length, reverse=True)
    if diversity == "longest":
        return ordered[:size]
    of_domain: defaultdict[str, list[Attempt]] = defaultdict(list)
    for trace in ordered:
        of_domain[trace.problem.domain].append(trace)
    domains = sorted(of_domain)
    drawn: list[Attempt] = []
    while domains and len(drawn) < size:
        domain = rng.choice(domains)
        left = of_domain[domain]
        rank = _geometric_rank(rng, len(left)) if diversity == "s1" else rng.randrange(len(left))
        drawn.append(left.pop(rank))
        if not left:
            domains.remove(domain)
    return drawn


def _geometric_rank(rng: random.Random, count: int) -> int:
    """r in 0..count-1 with probability proportional to 2^-r."""
    while True:
        rank = 0
        while rng.random() < 0.5:
            rank += 1
        if rank < count:
            return rank
