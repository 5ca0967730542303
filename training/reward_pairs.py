"""Pairs of a better and a worse solution of the same problem, as token ids: from attempts, of which some are
right and some wrong, and from preference data."""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from data.preferences import PreferenceSource, load_preferences
from data.schema import Attempt, Rejected, attempt_from_row, attempt_row, problem_id, rejected
from data.sources import refuse_eval_rows
from data.step_formats import StepFormat
from data.steps import steps_of
from data.store import iterate_rows, table_path
from data.thinking import ThinkingFormat
from training.step_rows import UnusableError, held_out_problems

if TYPE_CHECKING:
    Ids = array[int]
    Pair = tuple[Ids, Ids]  # token ids of a better and of a worse solution


@dataclass(frozen=True, kw_only=True)
class PairReader:
    """Reads solutions as token ids, as scoring reads them."""

    step_format: StepFormat
    separator: str
    """What a solution is split at into steps."""
    form: ThinkingFormat
    """Whose tags are no part of a step."""
    max_length: int | None
    """Tokens; a longer solution is left out."""

    def read(self, question: str, text: str) -> Ids:
        """Token ids of a solution."""
        steps = [step.text for step in steps_of(text, self.form, self.separator)]
        if not steps:
            raise UnusableError("no_step", "there is no text")
        try:
            ids = self.step_format.encode(question, steps).ids
        except ValueError as error:
            raise UnusableError("unencodable", str(error)) from error
        if self.max_length is not None and len(ids) > self.max_length:
            raise UnusableError("overlong", f"{len(ids)} > max_length {self.max_length}")
        return array("i", ids)


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The different attempts of a problem, as token ids."""

    right: list[Ids]
    wrong: list[Ids]


def read_solved(sources: Sequence[str], reader: PairReader) -> tuple[dict[str, Solved], list[Rejected]]:
    """Attempts by the id of their problem; the same text counts once.

    Left out, by rule: unverifiable, no_step (nothing but tags and blanks), unencodable, overlong.

    Raises:
        ValueError: a file is missing or unreadable, or rows of role eval.
    """
    solved: dict[str, Solved] = {}
    bad = []
    for attempt in _attempts(sources):
        try:
            if attempt.verdict == "unverifiable":
                raise UnusableError("unverifiable", "it is not known whether the answer is right")
            ids = reader.read(attempt.problem.question, attempt.completion.text)
        except UnusableError as why:
            bad.append(rejected(attempt_row(attempt), *why.args))
            continue
        each = solved.setdefault(attempt.problem.id, Solved(right=[], wrong=[]))
        same = each.right if attempt.verdict == "correct" else each.wrong
        if ids not in same:
            same.append(ids)
    return solved, bad


def _attempts(sources: Sequence[str]) -> Iterable[Attempt]:
    for source in sources:
        for row in iterate_rows(table_path(source, "attempts"), "attempts"):
            attempt = attempt_from_row(row)
            refuse_eval_rows([attempt.problem], source)
            yield attempt


def read_preferences(
    sources: Sequence[PreferenceSource], reader: PairReader
) -> tuple[dict[str, list[Pair]], list[Rejected]]:
    """Pairs by the id of their question. Left out: rows by the rules of `data.preferences`, pairs of which
    a text is no_step, unencodable or overlong, and same_text where both are read alike.

    Raises:
        ValueError: see `load_preferences`.
    """
    pairs: dict[str, list[Pair]] = defaultdict(list)
    bad = []
    for source in sources:
        found, left_out = load_preferences(source)
        bad += left_out
        for each in found:
            try:
                pair = (reader.read(each.question, each.chosen), reader.read(each.question, each.rejected))
                if pair[0] == pair[1]:
                    raise UnusableError("same_text", "they differ in thinking tags or blank lines alone")
            except UnusableError as why:
                rule, evidence = why.args
                bad.append(rejected(each._asdict(), rule, f"{source.name}: {evidence}"))
            else:
                pairs[problem_id(each.question)].append(pair)
    return dict(pairs), bad


def make_pairs(
    solved: Mapping[str, Solved],
    most: int | None,
    seed: int,
    preferred: Mapping[str, list[Pair]] | None = None,
) -> dict[str, list[Pair]]:
    """Pairs of each problem that has attempts of both classes or preferences; at most `most`, drawn by the
    seed.

    Raises:
        ValueError: there is none.
    """
    preferred = preferred or {}
    made = {}
    for problem in dict.fromkeys([*solved, *preferred]):
        each = solved.get(problem, Solved(right=[], wrong=[]))
        pairs = [*product(each.right, each.wrong), *preferred.get(problem, [])]
        if most is not None and len(pairs) > most:
            pairs = random.Random(f"{seed} {problem}").sample(pairs, most)
        if pairs:
            made[problem] = pairs
    if not made:
        raise ValueError(
            f"attempts: none of {len(solved)} problems has a right and a wrong attempt; sample more "
            "completions, or harder or easier problems"
        )
    return made


def split_by_problem(
    pairs: dict[str, list[Pair]], fraction: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and held-out ones, of at least one problem; no problem is in both.

    Raises:
        ValueError: nothing would be left to train on.
    """
    out = held_out_problems(pairs, fraction, seed)
    split: tuple[list[Pair], list[Pair]] = [], []
    for problem, each in pairs.items():
        split[problem in out].extend(each)
    return split
