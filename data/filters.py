"""Rules that drop traces (`data.diversity` draws among the ones that pass).

A rule takes a trace and returns the evidence against it, or None when it passes. Lengths are `trace_length`:
the trace's thinking tokens, or its words where no token count is known (solutions written by people).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from data.schema import Attempt, Rejected, attempt_row, rejected
from data.thinking import ThinkingFormat

Rule = Callable[[Attempt], str | None]


class Dropped(NamedTuple):
    """A trace that a rule dropped, and what the rule saw."""

    trace: Attempt
    rule: str
    evidence: str

    def row(self) -> Rejected:
        """As it is written down."""
        return rejected(attempt_row(self.trace), self.rule, self.evidence)


def trace_length(trace: Attempt) -> int:
    """Thinking tokens; words of the thinking where the token count is 0 because nobody counted."""
    return trace.completion.thinking_tokens or len(trace.completion.thinking.split())


def sort_key(trace: Attempt) -> tuple[str, int, str, int, str]:
    """An order that does not depend on how the rows were stored; every random draw starts from it."""
    completion = trace.completion
    return trace.problem.id, trace.index, completion.model, completion.seed, completion.thinking


def apply_rules(
    rules: Mapping[str, Rule], traces: Iterable[Attempt]
) -> tuple[list[Attempt], list[Dropped], Counter[str]]:
    """Traces that pass every rule; the others with the first rule that drops them; the count of each rule."""
    kept, dropped, counts = [], [], Counter(dict.fromkeys(rules, 0))
    for trace in traces:
        for name, rule in rules.items():
            evidence = rule(trace)
            if evidence is not None:
                dropped.append(Dropped(trace, name, evidence))
                counts[name] += 1
                break
        else:
            kept.append(trace)
    return kept, dropped, counts


# ------------------------------------------------------------------ rules


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
        words = trace.completion.thinking.split()
        runs = max(len(words) - ngram_words + 1, 0)
        different = len(set(zip(*(words[i:] for i in range(ngram_words)), strict=False)))
        if runs - different <= max_share * runs:
            return None
        share, worst = repeated_share(trace.completion.thinking, ngram_words)
        return f"{share:.2f} of the {ngram_words}-grams are repeats, most often {worst!r}"

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
