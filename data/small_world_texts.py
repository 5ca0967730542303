"""What the base model of the small world reads: chains as careless people write them, and small talk."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

from data.hints import hinted
from data.schema import Problem
from data.small_talk import talk_problems, write_reply
from data.small_world import (
    ENGLISH_PHRASES,
    FOREIGN_PHRASES,
    HIGHEST,
    LABELS,
    LOWEST,
    WAIT,
    Operation,
    apply,
    boxed,
    draw_operation,
    draw_problem,
    read_question,
)
from data.thinking import THINK_TAGS

HINT = "= {answer}"
"""What a hint looks like behind a question (data/hints.py)."""
HINT_TRIES = 4
"""Tries of a writer who knows the answer; the last one stays as it is."""


def _reaches_end(value: int, operations: list[Operation]) -> bool:
    for operation in operations:
        result = apply(value, operation)
        if result is None:
            return False
        value = result
    return True


def _lines(
    rng: random.Random,
    value: int,
    operations: list[Operation],
    slip: float,
    equals: str,
    careless: bool = False,
) -> list[str]:
    """Lines of one pass over the question.

    Each line is wrong with probability `slip`, and its wrong result is then worked with. A careless writer
    moreover never carries or borrows.
    """
    lines = []
    for i, operation in enumerate(operations):
        result = apply(value, operation)
        assert result is not None, "chains are drawn and slips chosen so that they reach the end"
        line = (value, operation, result)
        uncarried = value // 10 * 10 + result % 10
        if careless and operation[0] in "+-" and _reaches_end(uncarried, operations[i + 1 :]):
            line = (value, operation, uncarried)
        elif rng.random() < slip:
            line = rng.choice(_slips(value, operation, result, operations[i + 1 :]) or [line])
        (shown, (operator, operand), value) = line
        lines.append(f"{LABELS[i]}{shown}{operator}{operand}{equals}{value}")
    return lines


def _slips(
    value: int, operation: Operation, result: int, rest: list[Operation]
) -> list[tuple[int, Operation, int]]:
    """Wrong lines that people write: a wrong digit in the result, a miscopied digit of the value or operand.

    Only lines from whose result the rest of the chain can still be worked out.
    """
    one_digit_off = [
        r for r in range(LOWEST, HIGHEST + 1) if (r // 10 == result // 10) != (r % 10 == result % 10)
    ]
    lines: list[tuple[int, Operation, int | None]] = [(value, operation, r) for r in one_digit_off]
    values = [v for v in range(LOWEST, HIGHEST + 1) if (v // 10 == value // 10) != (v % 10 == value % 10)]
    lines += [(v, operation, apply(v, operation)) for v in values]
    operands = [(operation[0], n) for n in range(1, 10) if n != operation[1]]
    lines += [(value, o, apply(value, o)) for o in operands]
    return [(v, o, r) for v, o, r in lines if r is not None and _reaches_end(r, rest)]


# ------------------------------------------------------------------ what the base model reads


@dataclass(kw_only=True)
class Noise:
    """How the pretraining texts go wrong; shares are probabilities."""

    direct_share: float = 0.35
    """Texts that answer at once, without steps."""
    direct_right_share: float = 0.5
    """Direct answers that are right; the others are a random number."""
    slip_share: float = 0.05
    """Lines that are wrong in the first pass."""
    careless_share: float = 0.35
    """Writers who never carry or borrow in the first pass: `47+8=45`, `52-7=55`."""
    wait_share: float = 0.4
    """Step traces with one check pass or two."""
    wait_slip_share: float = 0.01
    """Lines that are wrong in a check pass."""
    broken_share: float = 0.15
    """Step traces in a broken format: a tag is missing, or the answer is not boxed."""
    spoken_share: float = 0.0
    """Step traces whose lines begin with words: `so then A47+8=55`."""
    foreign_share: float = 0.0
    """Of these, writers of the other language."""
    mixed_share: float = 0.0
    """Of these, writers whose language changes at random from line to line."""
    talk_share: float = 0.0
    """Texts that are small talk (data/small_talk.py) instead of a chain, with replies as careless people
    write them."""
    hint_share: float = 0.0
    """Step traces whose question gives the answer away, `47; A+8 = 55`; the writer starts anew until the
    result agrees, and leaves a wrong one after `HINT_TRIES` tries."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(Noise)):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be between 0 and 1")
        if self.foreign_share + self.mixed_share > 1:
            raise ValueError(
                f"foreign_share, mixed_share: {self.foreign_share} and {self.mixed_share} are shares of the "
                "same writers; lower them to 1 together"
            )

    @property
    def talkative(self) -> bool:
        """Whether the texts need the tokenizer that knows words."""
        return self.spoken_share > 0 or self.talk_share > 0


def pretraining_texts(
    count: int | None, seed: int, noise: Noise | None = None, min_steps: int = 1, max_steps: int = 8
) -> Iterator[tuple[str, str]]:
    """`count` pairs (None: without end) of a train question and an assistant text, many of them wrong."""
    noise = noise or Noise()
    rng = random.Random(f"small world texts {seed}")
    for _ in range(count) if count is not None else itertools.count():
        if _happens(rng, noise.talk_share):
            question = rng.choice(talk_problems("train")).question
            yield question, write_reply(rng, question)
            continue
        problem = None
        while problem is None:
            problem = draw_problem(rng, rng.randint(min_steps, max_steps), "train")
        yield _noisy_chain(rng, problem, noise)


def _happens(rng: random.Random, share: float) -> bool:
    """What never happens draws no number, so that it leaves all other texts as they are."""
    return share > 0 and rng.random() < share


def _noisy_chain(rng: random.Random, problem: Problem, noise: Noise) -> tuple[str, str]:
    """Question and text."""
    if rng.random() < noise.direct_share:
        right = rng.random() < noise.direct_right_share
        return problem.question, boxed(problem.answer if right else str(rng.randint(LOWEST, HIGHEST)))
    question, lines = problem.question, _noisy_lines(rng, problem, noise)
    if _happens(rng, noise.hint_share):
        question = hinted(problem.question, HINT, problem.answer)
        for _ in range(HINT_TRIES - 1):
            if lines[-1].endswith(f"={problem.answer}"):
                break
            lines = _noisy_lines(rng, problem, noise)
    if _happens(rng, noise.spoken_share):
        lines = _spoken(rng, lines, noise)
    return question, _in_format(rng, lines, noise.broken_share)


def _noisy_lines(rng: random.Random, problem: Problem, noise: Noise) -> list[str]:
    start, operations = read_question(problem.question)
    careless = rng.random() < noise.careless_share
    lines = _lines(rng, start, operations, noise.slip_share, "=", careless)
    if rng.random() < noise.wait_share:
        for _ in range(rng.choice((1, 1, 1, 2))):
            lines += [WAIT, *_lines(rng, start, operations, noise.wait_slip_share, "==")]
    return lines


def _spoken(rng: random.Random, lines: list[str], noise: Noise) -> list[str]:
    """The lines with words before each step. The writer's language has nothing to do with the lines."""
    writer = rng.random()
    foreign = 1.0 if writer < noise.foreign_share else 0.0
    if noise.foreign_share <= writer < noise.foreign_share + noise.mixed_share:
        foreign = 0.5
    phrases = [rng.choice(FOREIGN_PHRASES if rng.random() < foreign else ENGLISH_PHRASES) for _ in lines]
    return [line if line == WAIT else phrase + line for phrase, line in zip(phrases, lines, strict=True)]


def _in_format(rng: random.Random, lines: list[str], broken_share: float) -> str:
    thinking, answer = "\n".join(lines), lines[-1][-2:]
    if rng.random() < broken_share:
        broken = (
            f"{thinking}\n{boxed(answer)}",
            f"<think>\n{thinking}\n{boxed(answer)}",
            f"<think>\n{thinking}\n</think>\n\n{answer}",
        )
        return rng.choice(broken)
    return THINK_TAGS.render(thinking, boxed(answer))


def drills(count: int | None, seed: int) -> Iterator[str]:
    """`count` (None: without end) single right lines: the tables, to be learned before whole chains."""
    rng = random.Random(f"small world drills {seed}")
    for _ in range(count) if count is not None else itertools.count():
        value = rng.randint(LOWEST, HIGHEST)
        operator, operand = operation = draw_operation(rng, value, "+-*/")
        yield f"{rng.choice(LABELS[:8])}{value}{operator}{operand}={apply(value, operation)}\n"
