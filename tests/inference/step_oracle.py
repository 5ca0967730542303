"""An engine that goes on from solutions by a rule, and attempts for it: what every step is worth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from data.schema import Attempt, Outcome, Problem, problem_id, written_completion
from inference.engine import Follow, Generation, Request, check_requests
from inference.generations import Ending, finished_generation

Rule = Callable[[str, int], str]
"""What comes behind a written text, the n-th time that the engine goes on from it."""


class Oracle:
    """An `Engine` that follows a rule, one request after the other."""

    name = "oracle"
    has_logprobs = False
    repeatable = True
    max_model_tokens = 2000

    def __init__(self, tokenizer: Any, rule: Rule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule
        self.prefixes: list[str] = []
        """Written texts that it went on from, in order."""
        self.requests: list[Request] = []
        self.calls = 0
        self.seen: Counter[tuple[int, ...]] = Counter()

    def check(self, requests: Sequence[Request]) -> None:
        check_requests(self, requests)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        assert follow is None
        self.check(requests)
        self.calls += 1
        for index, request in enumerate(requests):
            prefix = self.tokenizer.decode(list(request.prompt_ids)).rpartition("assistant\n")[2]
            text = self.rule(prefix, self.seen[request.prompt_ids])
            self.seen[request.prompt_ids] += 1
            self.prefixes.append(prefix)
            self.requests.append(request)
            ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
            limit = request.params.max_tokens
            ending = Ending("length" if len(ids) > limit else "stop")
            yield [(index, finished_generation(self.tokenizer, ids[:limit], ending, ()))]


def problem(number: int = 0, **fields: Any) -> Problem:
    question = f"Question {number}?"
    made: dict[str, Any] = {"id": problem_id(question), "question": question, "answer": "1", **fields}
    return Problem(**made)


def attempt(steps: Sequence[str], verdict: Outcome = "wrong", index: int = 0, **of: Any) -> Attempt:
    """Its text is the steps, each but the last with a blank line behind it."""
    completion = replace(written_completion("", model="policy"), text="\n\n".join(steps))
    return Attempt(
        problem=of.get("problem") or problem(),
        index=index,
        completion=completion,
        verdict=verdict,
        extracted="",
    )


def honest(prefix: str, _: int) -> str:
    """Right unless a step is bad."""
    return "\\boxed{0}" if "bad" in prefix else "\\boxed{1}"
