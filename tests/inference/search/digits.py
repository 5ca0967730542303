"""A policy whose every completion is known: lines of random digits, then all of them in a box; and scorers
that know what each line is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from data.prompts import Prompt
from data.schema import Problem, problem_id
from data.thinking import THINK_TAGS
from inference.choice import uniforms
from inference.engine import Follow, Generation, Request, SamplingParams, check_requests
from inference.generations import Ending, finished_generation
from inference.search.driver import SearchBudget, Task
from inference.search.extension import StepLimits

SEPARATOR = "\n"


class DigitPolicy:
    """An `Engine` that writes `depth` lines of one digit below `digits` each, drawn from each request's own
    stream, and ends with all of them in a box."""

    name = "digits"
    has_logprobs = False
    repeatable = True
    max_model_tokens = 2000

    def __init__(self, tokenizer: Any, depth: int = 3, digits: int = 2) -> None:
        self.tokenizer = tokenizer
        self.depth = depth
        self.digits = digits
        self.calls: list[int] = []
        """Requests of each call."""
        self.tokens = 0

    def check(self, requests: Sequence[Request]) -> None:
        check_requests(self, requests)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        self.check(requests)
        self.calls.append(len(requests))
        for index, first in enumerate(requests):
            request: Request | None = first
            while request is not None:
                made = self._complete(request)
                self.tokens += len(made.token_ids)
                request = follow(index, made) if follow else None
            yield [(index, made)]

    def _complete(self, request: Request) -> Generation:
        ids = list(request.prompt_ids)
        stop, limit = request.params.stop, request.params.max_tokens
        while True:
            ids.append(self._next(ids, request))
            new = ids[len(request.prompt_ids) :]
            ended = new[-1] == self.tokenizer.eos_token_id
            stopped = any(text in self.tokenizer.decode(new) for text in stop)
            if ended or stopped or len(new) == limit:
                return finished_generation(self.tokenizer, new, Ending("stop" if ended else "length"), stop)

    def _next(self, ids: list[int], request: Request) -> int:
        written = str(self.tokenizer.decode(ids)).rpartition("assistant\n")[2]
        lines = written.split("\n")
        if len(lines) <= self.depth:
            chance = float(uniforms([request.seed], [len(ids)])[0]) if request.params.temperature else 0.0
            text = str(int(chance * self.digits)) if not lines[-1] else "\n"
            [token] = self.tokenizer(text)["input_ids"]
            return token
        answer = self.tokenizer(f"\\boxed{{{''.join(lines[: self.depth])}}}")["input_ids"]
        done = self.tokenizer(lines[-1])["input_ids"] if lines[-1] else []
        return answer[len(done)] if len(done) < len(answer) else self.tokenizer.eos_token_id


Worth = Callable[[str, str], float]
"""Of a question and the digits so far."""


class DigitScorer:
    """A `Scorer` by what the digits so far are worth; the answer is worth as much as all of them."""

    name = "worth"

    def __init__(self, worth: Worth) -> None:
        self.worth = worth
        self.forwarded_tokens = 0

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        self.forwarded_tokens += sum(len(steps) for steps in solutions)
        return [
            [
                self.worth(question, "".join(s for s in steps[:end] if len(s) == 1 and s.isdigit()))
                for end in range(1, len(steps) + 1)
            ]
            for question, steps in zip(questions, solutions, strict=True)
        ]


def chance(*of: object) -> float:
    """A number in [0, 1) that depends on what is given alone."""
    digest = hashlib.sha256(repr(of).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def oracle(depth: int, digits: int) -> Worth:
    """What the best leaf behind is worth, a random number for each leaf."""
    leaves = ["".join(map(str, path)) for path in product(range(digits), repeat=depth)]

    def worth(question: str, so_far: str) -> float:
        return max(chance(question, leaf) for leaf in leaves if leaf.startswith(so_far))

    return worth


def best_leaf(question: str, depth: int, digits: int) -> str:
    leaves = ["".join(map(str, path)) for path in product(range(digits), repeat=depth)]
    return max(leaves, key=lambda leaf: chance(question, leaf))


def tasks(tokenizer: Any, count: int, answer: str = "000") -> list[Task]:
    """Problems with their prompts, each of another length."""
    made = []
    for number in range(count):
        question = f"Question {'x' * (number % 7)} {number}?"
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        problem = Problem(id=problem_id(question), question=question, answer=answer)
        made.append((problem, Prompt(text=text, prefill="", ids=tuple(tokenizer(text)["input_ids"]))))
    return made


def search_budget(**changes: Any) -> SearchBudget:
    """A budget with room for everything."""
    temperature = changes.pop("temperature", 1.0)
    max_tokens = changes.pop("max_tokens", 40)
    steps = StepLimits(separator=SEPARATOR, max_tokens=changes.pop("max_step_tokens", 40))
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    return SearchBudget(params=params, steps=steps, **changes)


FORM = THINK_TAGS
