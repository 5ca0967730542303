"""Budget forcing: how many tokens a model thinks, enforced while it generates (arXiv 2501.19393 section 3.1).

Most: at `max_thinking_tokens` the tag that ends the thinking and "Final Answer:" are put in. Least: while
fewer than `min_thinking_tokens` are thought, or the end was ignored fewer than `waits` times, an end that the
model writes is taken out and `wait_text` put in its place. Works with every engine and thinking format:
sequences are stopped at the tag and go on through `Engine.generate`'s `follow`, so that nothing is computed
twice and each sequence is in a round of its own. Unlike in simplescaling/s1@77272c6, all rounds of a sequence
share one budget.

Thinking tokens are the generated and forced ones before the tag that ends the thinking and its line break.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data.thinking import ThinkingFormat
from inference.engine import Engine, Generation, Request
from inference.thinking_tokens import count_thinking, end_of_text, tokens_within

FINAL_ANSWER = "Final Answer:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long one completion may and must think."""

    max_thinking_tokens: int | None = None
    """Most thinking tokens; null: as many as `max_tokens` leaves beside the answer."""
    min_thinking_tokens: int = 0
    """Ends of the thinking before so many tokens are ignored."""
    waits: int = 0
    """How many ends are ignored in any case."""
    wait_text: str = "Wait"
    """What stands in the place of an ignored end; may be empty."""
    answer_tokens: int = 512
    """Tokens of `max_tokens` that are kept for the end of the thinking and the answer."""

    def __post_init__(self) -> None:
        most = self.max_thinking_tokens
        if most is not None and most < 0:
            raise ValueError(f"max_thinking_tokens: {most} is negative; 0 goes straight to the answer")
        if self.min_thinking_tokens < 0 or self.waits < 0:
            raise ValueError(
                f"min_thinking_tokens {self.min_thinking_tokens}, waits {self.waits}: neither may be negative"
            )
        if most is not None and self.min_thinking_tokens > most:
            raise ValueError(
                f"min_thinking_tokens: {self.min_thinking_tokens} is above max_thinking_tokens {most}"
            )
        if self.wait_text and not self.wait_text.strip():
            raise ValueError(f"wait_text: {self.wait_text!r} is white space; give a text, or none at all")
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens: {self.answer_tokens} must be at least 1")

    def room(self, max_tokens: int, end_tokens: int = 0) -> int:
        """Thinking tokens for which `max_tokens` has room beside the end, which takes `end_tokens` at least.

        Raises:
            ValueError: more are asked for.
        """
        room = max_tokens - max(self.answer_tokens, end_tokens)
        wanted = max(self.max_thinking_tokens or 0, self.min_thinking_tokens)
        if wanted > room:
            raise ValueError(
                f"max_tokens: {max_tokens} leaves {room} tokens to think beside answer_tokens "
                f"{self.answer_tokens} (the end of the thinking takes {end_tokens} of them or more), and "
                f"{wanted} are asked for; raise max_tokens or lower answer_tokens"
            )
        return room


class Tags:
    """What budget forcing writes, in tokens of one model.

    Raises:
        ValueError: the tokenizer cannot write the format's tags.
    """

    def __init__(self, tokenizer: Any, form: ThinkingFormat) -> None:
        self.tokenizer = tokenizer
        self.form = form
        for text in (form.start, form.middle):
            if str(tokenizer.decode(self.ids(text))) != text:
                raise ValueError(f"thinking_format: the tokenizer cannot write {text!r} of {form.name!r}")
        control = sorted(set(re.findall(r"<\|\w+\|>", " ".join(form.tags))))
        if missing := [tag for tag in control if len(self.ids(tag)) != 1]:
            raise ValueError(
                f"thinking_format: {form.name!r} needs the token {missing[0]}, which the tokenizer lacks; "
                "use think_tags"
            )
        self.longest_end = len(self.ids(form.middle + FINAL_ANSWER)) + 1

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def end(self, has_break: bool, answer: bool) -> list[int]:
        """The tokens that end a thinking, with "Final Answer:" where it was cut off."""
        middle = self.form.middle.lstrip("\n") if has_break else self.form.middle
        return self.ids(middle + (FINAL_ANSWER if answer else ""))

    def wait(self, text: str, wait_text: str) -> list[int]:
        return self.ids(wait_text if text[-1:].isspace() or not text or not wait_text else "\n" + wait_text)

    def within(self, ids: Sequence[int], characters: int) -> int:
        """How many of the first tokens have a text of at most so many characters."""
        return tokens_within(self.tokenizer, ids, characters)

    def decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))


@dataclass(eq=False)
class _Sequence:
    """One completion as it grows."""

    request: Request
    budget: Budget
    most: int
    """Thinking tokens that it may have."""
    ids: list[int] = field(default_factory=list)
    """Everything behind the prompt."""
    thinking: bool = True
    ignored: int = 0
    banned: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Tokens that may not stand at a place: the first ones of ends that were ignored there without a text."""
    logprobs: list[float] = field(default_factory=list)


def force(
    engine: Engine,
    requests: Sequence[Request],
    budgets: Sequence[Budget],
    form: ThinkingFormat,
    counts: Counter[str] | None = None,
) -> Iterator[list[tuple[int, Generation]]]:
    """`Engine.generate` with a budget for each request; `max_tokens` bounds thinking and answer together.

    The generations hold what was put in; its log-probability is NaN. A sequence that its budget does not
    touch has the tokens that it would have had without one.

    Args:
        counts: gets the numbers of ends that were ignored (`waits`) and forced (`forced_ends`) and of tokens
            put in (`forced_tokens`).
    Raises:
        ValueError: the tokenizer lacks the tags, `max_tokens` leaves no room for the answer, or see
            `Engine.check`; before anything is generated.
    """
    forcing = _Forcing(Tags(engine.tokenizer, form), counts if counts is not None else Counter())
    sequences = [forcing.sequence(*pair) for pair in zip(requests, budgets, strict=True)]
    engine.check(requests)
    first = [forcing.next_request(sequence) for sequence in sequences]

    def follow(index: int, generation: Generation) -> Request | None:
        return forcing.follow(sequences[index], generation)

    for finished in engine.generate(first, follow):
        yield [(index, forcing.whole(sequences[index], last)) for index, last in finished]


class _Forcing:
    def __init__(self, tags: Tags, counts: Counter[str]) -> None:
        self.tags = tags
        self.counts = counts

    def sequence(self, request: Request, budget: Budget) -> _Sequence:
        room = budget.room(request.params.max_tokens, self.tags.longest_end + 1)
        most = room if budget.max_thinking_tokens is None else budget.max_thinking_tokens
        sequence = _Sequence(request, budget, most)
        if most == 0:
            self._end(sequence, answer=True)
        return sequence

    def next_request(self, sequence: _Sequence) -> Request:
        """What the engine does next for a sequence."""
        params, done = sequence.request.params, len(sequence.ids)
        if sequence.thinking:
            banned = sequence.banned.get(done, ())
            limit = 1 if banned else sequence.most - done
            stop = (*params.stop, self.tags.form.end_of_thinking)
            params = replace(params, max_tokens=limit, stop=stop, banned_ids=(*params.banned_ids, *banned))
        else:
            params = replace(params, max_tokens=params.max_tokens - done)
        prompt = (*sequence.request.prompt_ids, *sequence.ids)
        return Request(prompt_ids=prompt, params=params, seed=sequence.request.seed)

    def follow(self, sequence: _Sequence, generation: Generation) -> Request | None:
        """Take in a part; the request that goes on, None where the completion is finished."""
        if not sequence.thinking or generation.stop_reason in sequence.request.params.stop:
            return None
        self._add(sequence, generation)
        text = self.tags.decoded(sequence.ids)
        tag = text.find(self.tags.form.end_of_thinking)
        ended = generation.finish_reason == "stop" and generation.stop_reason is None
        if tag >= 0:  # it may have been completed across the end of a part, and seen late
            end = tag + len(self.tags.form.end_of_thinking)
            self._cut(sequence, self.tags.within(sequence.ids, end - 1) + 1)
            thought = self.tags.within(sequence.ids, end_of_text(text, tag, self.tags.form))
        else:
            thought = len(sequence.ids) - ended
        if (tag >= 0 or ended) and self._ignores(sequence, thought):
            if len(sequence.ids) >= sequence.most:
                self._end(sequence, answer=True)
        elif tag >= 0:
            sequence.thinking = False
        elif ended:
            self._cut(sequence, thought)
            self._end(sequence, answer=False)
        elif thought >= sequence.most:
            self._end(sequence, answer=True)
        return self.next_request(sequence)

    def _add(self, sequence: _Sequence, generation: Generation) -> None:
        sequence.ids += generation.token_ids
        sequence.logprobs += generation.logprobs or []

    def _ignores(self, sequence: _Sequence, thought: int) -> bool:
        """Put `wait_text` in the place of the end behind `thought` tokens, if the budget wants it."""
        budget, room = sequence.budget, sequence.most - thought
        short = thought < budget.min_thinking_tokens
        wait = self.tags.wait(self.tags.decoded(sequence.ids[:thought]), budget.wait_text)
        if not short and (sequence.ignored >= budget.waits or room < max(len(wait), 1)):
            return False
        if not wait:
            ends = (sequence.ids[thought], self.tags.ids(self.tags.form.end_of_thinking)[0])
            before = sequence.banned.get(thought, ())
            sequence.banned = {place: ids for place, ids in sequence.banned.items() if place < thought}
            sequence.banned[thought] = tuple(dict.fromkeys((*before, *ends)))
        self._cut(sequence, thought)
        self._put(sequence, wait[:room])
        sequence.ignored += 1
        self.counts["waits"] += 1
        return True

    def _end(self, sequence: _Sequence, answer: bool) -> None:
        """End the thinking."""
        text = self.tags.decoded(sequence.ids)
        tag, least = self.tags.form.end_of_thinking, sequence.budget.min_thinking_tokens
        part = next((n for n in range(len(tag) - 1, 1, -1) if text.endswith(tag[:n])), 0)
        thought = self.tags.within(sequence.ids, end_of_text(text, len(text) - part, self.tags.form))
        if part and thought >= least:  # it was about to end by itself
            self._cut(sequence, thought)
            text = self.tags.decoded(sequence.ids)
        has_break = text.endswith("\n") and len(sequence.ids) > least
        self._put(sequence, self.tags.end(has_break, answer))
        sequence.thinking = False
        self.counts["forced_ends"] += 1

    def _put(self, sequence: _Sequence, ids: Sequence[int]) -> None:
        sequence.ids += ids
        sequence.logprobs += [float("nan")] * len(ids)
        self.counts["forced_tokens"] += len(ids)

    def _cut(self, sequence: _Sequence, length: int) -> None:
        del sequence.ids[length:], sequence.logprobs[length:]

    def whole(self, sequence: _Sequence, last: Generation) -> Generation:
        """The completion, of which the last part was just finished."""
        self._add(sequence, last)
        ended = last.finish_reason == "stop" and last.stop_reason is None
        text = self.tags.decoded(sequence.ids[: len(sequence.ids) - ended])
        if last.stop_reason is not None:
            text = text[: text.rindex(last.stop_reason) + len(last.stop_reason)]
        return replace(
            last,
            token_ids=sequence.ids,
            text=text,
            logprobs=sequence.logprobs if sequence.request.params.logprobs else None,
        )


def resample_longer(
    engine: Engine,
    requests: Sequence[Request],
    prefills: Sequence[str],
    form: ThinkingFormat,
    most: int,
    tries: int,
    counts: Counter[str] | None = None,
) -> Iterator[list[tuple[int, Generation]]]:
    """Length rejection sampling (arXiv 2501.19393 section 3.1): a completion with more than `most` thinking
    tokens is drawn again with another seed, `tries` draws at most; then the last one stays.

    Args:
        counts: gets `redrawn`, and `never_short` for completions of which no draw was short enough.
    """
    counts = counts if counts is not None else Counter()
    draws: Counter[int] = Counter()

    def follow(index: int, generation: Generation) -> Request | None:
        draws[index] += 1
        if count_thinking(engine.tokenizer, generation, prefills[index], form) <= most:
            return None
        if draws[index] >= tries:
            counts["never_short"] += 1
            return None
        counts["redrawn"] += 1
        return replace(requests[index], seed=requests[index].seed + 0x9E3779B9 * draws[index])

    return engine.generate(requests, follow)
