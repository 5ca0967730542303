"""The small world: arithmetic chains that a tiny model learns on a CPU in about a minute.

A question is a start value and operations that are applied in turn, `47; A+8; B/5; C*6`. Every true value has
two digits and every division is exact, so no rule needs explaining. A trace writes one line per operation,
`A47+8=55`: its label, the value so far, the operation, the result. A check pass is the line `Wait` and then
all lines once more, with `==` for `=`. The labels make it easy for a small model to copy the right operation
from the question.

Because each line can be checked, the true correctness of every step is known (`check_steps`). A line may
begin with words, `so then A47+8=55`, which mean nothing; they give the thinking a language. What careless
people write is in data/small_world_texts.py.
"""

from __future__ import annotations

import functools
import random
import re
from typing import TYPE_CHECKING

from data.schema import Problem, Role, problem_id
from data.small_talk import TALK_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LABELS = "ABCDEFGHIJKL"
LOWEST, HIGHEST = 10, 99
WAIT = "Wait"
ENGLISH_PHRASES = ("so then ", "now we have ", "and this gives ", "after that ", "which leaves ")
FOREIGN_PHRASES = ("и тогда ", "теперь у нас ", "и это даёт ", "после этого ", "и остаётся ")  # noqa: RUF001
"""What a line may begin with. data.language takes every mixture of the first for English."""

_MIXES = ("+-", "+-*", "+-/", "+-*/")
_DOMAINS = {
    (False, False): "sums",
    (True, False): "products",
    (False, True): "quotients",
    (True, True): "mixed",
}
_QUESTION = re.compile(r"([1-9]\d)((?:; [A-L][-+*/][1-9])+)", re.ASCII)
_PHRASE = "|".join((*ENGLISH_PHRASES, *FOREIGN_PHRASES))
_LINE = re.compile(rf"(?:{_PHRASE})?([A-L])(\d\d)([-+*/])(\d)==?(\d\d)", re.ASCII)
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


def draw_operation(rng: random.Random, value: int, operators: str) -> Operation:
    """Operators that are possible are equally likely, however many operands they allow."""
    possible = _possible(value, operators)
    operator = rng.choice(sorted({o for o, _ in possible}))
    return rng.choice([operation for operation in possible if operation[0] == operator])


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
        problem = draw_problem(rng, rng.randint(min_steps, max_steps), split)
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


def draw_problem(rng: random.Random, steps: int, split: Role) -> Problem | None:
    """A random problem, None where the question is of the other split."""
    mix = rng.choice(_MIXES)
    start = value = rng.randint(LOWEST, HIGHEST)
    operations: list[Operation] = []
    for _ in range(steps):
        operation = draw_operation(rng, value, mix)
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
    value, operations = read_question(problem.question)
    lines = []
    for label, operation in zip(LABELS, operations, strict=False):
        result = apply(value, operation)
        assert result is not None, "only chains that reach the end are drawn"
        lines.append(f"{label}{value}{operation[0]}{operation[1]}={result}")
        value = result
    return "\n".join(lines)


def check_steps(question: str, thinking: str) -> list[bool]:
    """Whether each line of the thinking is right; blank lines and `Wait` are no steps. Never raises.

    Words of `ENGLISH_PHRASES` or `FOREIGN_PHRASES` before a line change nothing.

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


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


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


def build_tokenizer(max_length: int = 1024, *, talkative: bool = False) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the small world's closed vocabulary, with a ChatML template.

    A talkative one also knows the phrases before lines, each one token, and the words of data/small_talk.py.

    Texts of the world, chat markup and all thinking formats decode back to exactly themselves; a character
    outside the vocabulary becomes `<|unk|>`. End of text is `<|im_end|>`, padding is `<|pad|>`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = dict.fromkeys(_WORDS)
    if talkative:
        known |= dict.fromkeys((*ENGLISH_PHRASES, *FOREIGN_PHRASES, *TALK_WORDS))
    vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *_TAGS, *known))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    words = "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True))
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
