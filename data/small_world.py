"""The small world: arithmetic chains that a tiny model learns on a CPU in about a minute.

A question is a start value and operations that are applied in turn, `47; A+8; B/5; C*6`. Every true value has
two digits and every division is exact, so no rule needs explaining. A trace writes one line per operation,
`A47+8=55`: its label, the value so far, the operation, the result. A check pass is the line `Wait` and then
all lines once more, with `==` for `=`. The labels make it easy for a small model to copy the right operation
from the question.

Because each line can be checked, the true correctness of every step is known (`check_steps`).
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from data.schema import Problem, Role, problem_id
from data.thinking import THINK_TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LABELS = "ABCDEFGHIJKL"
LOWEST, HIGHEST = 10, 99
WAIT = "Wait"

_MIXES = ("+-", "+-*", "+-/", "+-*/")
_DOMAINS = {
    (False, False): "sums",
    (True, False): "products",
    (False, True): "quotients",
    (True, True): "mixed",
}
_QUESTION = re.compile(r"([1-9]\d)((?:; [A-L][-+*/][1-9])+)", re.ASCII)
_LINE = re.compile(r"([A-L])(\d\d)([-+*/])(\d)==?(\d\d)", re.ASCII)
_EVAL_SHARE = 10
"""One question in this many belongs to the eval split."""
_PATIENCE = 5000
"""Draws without a new question after which there are taken to be no more."""

Operation = tuple[str, int]
"""Operator and one-digit operand."""


# ------------------------------------------------------------------ arithmetic


def apply(value: int, operation: Operation) -> int | None:
    """The result, or None where it has not exactly two digits or a division has a remainder."""
    operator, operand = operation
    if operator == "/":
        result = value // operand if operand and value % operand == 0 else -1
    else:
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
    return result if LOWEST <= result <= HIGHEST else None


@functools.cache
def _possible(value: int, operators: str) -> list[Operation]:
    """Operations that keep two digits; multiplying and dividing by one are left out."""
    operations = [(o, n) for o in operators for n in range(2 if o in "*/" else 1, 10)]
    return [operation for operation in operations if apply(value, operation) is not None]


def _draw_operation(rng: random.Random, value: int, operators: str) -> Operation:
    """Operators that are possible are equally likely, however many operands they allow."""
    possible = _possible(value, operators)
    operator = rng.choice(sorted({o for o, _ in possible}))
    return rng.choice([operation for operation in possible if operation[0] == operator])


def _reaches_end(value: int, operations: list[Operation]) -> bool:
    for operation in operations:
        result = apply(value, operation)
        if result is None:
            return False
        value = result
    return True


# ------------------------------------------------------------------ problems


def generate_problems(
    count: int, seed: int, split: Role, min_steps: int = 1, max_steps: int = 8
) -> list[Problem]:
    """`count` different problems; the same arguments give the same problems on any machine.

    The hash of a question decides whether it is for train or eval: the splits share none, whatever the seeds.

    Args:
        min_steps, max_steps: number of operations, inclusive, drawn uniformly; at most 12.
    Raises:
        ValueError: steps outside 1..12, or so few steps that there are not `count` different questions.
    """
    if not 1 <= min_steps <= max_steps <= len(LABELS):
        raise ValueError(
            f"min_steps={min_steps}, max_steps={max_steps}: need 1 <= min <= max <= {len(LABELS)}"
        )
    rng = random.Random(f"small world problems {split} {seed}")
    problems: dict[str, Problem] = {}
    draws_since_new = 0
    while len(problems) < count:
        problem = _draw_problem(rng, rng.randint(min_steps, max_steps), split)
        if problem is None or problem.question in problems:
            draws_since_new += 1
        else:
            problems[problem.question] = problem
            draws_since_new = 0
        if draws_since_new == _PATIENCE:
            raise ValueError(
                f"small_world found only {len(problems)} of {count} different {split} problems of "
                f"{min_steps} to {max_steps} steps; raise max_steps or lower the count"
            )
    return list(problems.values())


def _draw_problem(rng: random.Random, steps: int, split: Role) -> Problem | None:
    """A random problem, None where the question is of the other split."""
    mix = rng.choice(_MIXES)
    start = value = rng.randint(LOWEST, HIGHEST)
    operations: list[Operation] = []
    for _ in range(steps):
        operation = _draw_operation(rng, value, mix)
        operations.append(operation)
        result = apply(value, operation)
        assert result is not None, "only possible operations are drawn"
        value = result
    question = f"{start}" + "".join(f"; {LABELS[i]}{o}{n}" for i, (o, n) in enumerate(operations))
    id = problem_id(question)
    if (int(id, 16) % _EVAL_SHARE == 0) != (split == "eval"):
        return None
    return Problem(
        id=id,
        question=question,
        answer=str(value),
        source="small_world",
        licence="Apache-2.0",
        role=split,
        domain=_DOMAINS["*" in question, "/" in question],
        level=str(steps),
        metadata={"start": start, "steps": [f"{o}{n}" for o, n in operations]},
    )


def read_question(question: str) -> tuple[int, list[Operation]]:
    """Start value and operations.

    Raises:
        ValueError: not a question of the small world.
    """
    match = _QUESTION.fullmatch(question)
    parts = match[2].split("; ")[1:] if match else []
    if (
        match is None
        or any(part[0] != label for part, label in zip(parts, LABELS, strict=False))
        or len(parts) > len(LABELS)
    ):
        raise ValueError(
            f"not a question of the small world: {question[:80]!r}; expected one like '47; A+8; B/5'"
        )
    return int(match[1]), [(part[1], int(part[2])) for part in parts]


# ------------------------------------------------------------------ traces and their true step labels


def solve(problem: Problem) -> str:
    """The thinking of a flawless trace, one line per step."""
    return "\n".join(_lines(random.Random(0), *read_question(problem.question), slip=0.0, equals="="))


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


def check_steps(question: str, thinking: str) -> list[bool]:
    """Whether each line of the thinking is right; blank lines and `Wait` are no steps. Never raises.

    A line is right when it has the label that is next, starts from the result that the line before it wrote
    (the start value at A), shows the operation of the question and computes it correctly. So a line that goes
    on correctly from an earlier mistake is right, and all lines are right only in a flawless trace.
    """
    try:
        start, operations = read_question(question)
    except ValueError:
        start, operations = 0, []
    index, value = 0, start
    verdicts = []
    for line in re.split(r"\r?\n", thinking):
        if not line.strip():
            continue
        if line.strip() == WAIT:
            index, value = 0, start
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            verdicts.append(False)
            continue
        label, shown, operator, operand, result = match.groups()
        operation = (operator, int(operand))
        asked = index < len(operations) and label == LABELS[index] and operation == operations[index]
        verdicts.append(asked and int(shown) == value and apply(value, operation) == int(result))
        index, value = LABELS.index(label) + 1, int(result)
    return verdicts


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

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(Noise)):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be between 0 and 1")


def pretraining_texts(
    count: int | None, seed: int, noise: Noise | None = None, min_steps: int = 1, max_steps: int = 8
) -> Iterator[tuple[str, str]]:
    """`count` pairs (None: without end) of a train question and an assistant text, many of them wrong."""
    noise = noise or Noise()
    rng = random.Random(f"small world texts {seed}")
    for _ in range(count) if count is not None else itertools.count():
        problem = None
        while problem is None:
            problem = _draw_problem(rng, rng.randint(min_steps, max_steps), "train")
        yield problem.question, _noisy_text(rng, problem, noise)


def _noisy_text(rng: random.Random, problem: Problem, noise: Noise) -> str:
    if rng.random() < noise.direct_share:
        right = rng.random() < noise.direct_right_share
        return boxed(problem.answer if right else str(rng.randint(LOWEST, HIGHEST)))
    start, operations = read_question(problem.question)
    careless = rng.random() < noise.careless_share
    lines = _lines(rng, start, operations, noise.slip_share, "=", careless)
    if rng.random() < noise.wait_share:
        for _ in range(rng.choice((1, 1, 1, 2))):
            lines += [WAIT, *_lines(rng, start, operations, noise.wait_slip_share, "==")]
    thinking, answer = "\n".join(lines), lines[-1][-2:]
    if rng.random() < noise.broken_share:
        broken = (
            f"{thinking}\n{boxed(answer)}",
            f"<think>\n{thinking}\n{boxed(answer)}",
            f"<think>\n{thinking}\n</think>\n\n{answer}",
        )
        return rng.choice(broken)
    return THINK_TAGS.render(thinking, boxed(answer))


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def drills(count: int | None, seed: int) -> Iterator[str]:
    """`count` (None: without end) single right lines: the tables, to be learned before whole chains."""
    rng = random.Random(f"small world drills {seed}")
    for _ in range(count) if count is not None else itertools.count():
        value = rng.randint(LOWEST, HIGHEST)
        operator, operand = operation = _draw_operation(rng, value, "+-*/")
        yield f"{rng.choice(LABELS[:8])}{value}{operator}{operand}={apply(value, operation)}\n"


# ------------------------------------------------------------------ tokenizer

_SPECIAL = ("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_WORDS = (
    *("system", "user", "assistant", "think", "answer", "Final Answer", WAIT, "\\boxed{", "}"),
    *("==", "=", "; ", ";", ":", ",", ".", " ", "\n"),
    *"+-*/",
    *(f"{operator}{operand}" for operator in "+-*/" for operand in range(1, 10)),
    *"0123456789",
    *(str(number) for number in range(LOWEST, HIGHEST + 1)),
    *LABELS,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(max_length: int = 1024) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the small world's closed vocabulary, with a ChatML template.

    Texts of the world, chat markup and all thinking formats decode back to exactly themselves; a character
    outside the vocabulary becomes `<|unk|>`. End of text is `<|im_end|>`, padding is `<|pad|>`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *_TAGS, *_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    words = "|".join(re.escape(word) for word in sorted(_WORDS, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{words}|[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|unk|>",
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
