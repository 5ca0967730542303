from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.thinking import ANSWER_TAGS, FORMATS, S1, THINK_TAGS, ThinkingFormat
from inference.budget import Budget, Tags, force, resample_longer
from inference.engine import Follow, Generation, Request, SamplingParams, check_requests
from inference.generations import Ending, finished_generation
from inference.thinking_tokens import count_thinking
from inference.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine.load(str(tiny_model), dtype="float32", batch_size=4)


class Scripted:
    """An engine that writes given texts: each answers the n-th part of a request."""

    name = "scripted"
    has_logprobs = False
    repeatable = True
    max_model_tokens = 100_000

    def __init__(self, tokenizer: Any, texts: Callable[[int, int], str]) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.requests: list[tuple[int, Request]] = []

    def check(self, requests: Sequence[Request]) -> None:
        check_requests(self, requests)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        for index, request in enumerate(requests):
            part = 0
            while True:
                self.requests.append((index, request))
                text, params = self.texts(index, part), request.params
                ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
                ids = [id for id in ids if id not in params.banned_ids]
                cut = len(ids) > params.max_tokens
                generation = finished_generation(
                    self.tokenizer, ids[: params.max_tokens], Ending("length" if cut else "stop"), params.stop
                )
                following = follow(index, generation) if follow else None
                if following is None:
                    yield [(index, generation)]
                    break
                request, part = following, part + 1


PROMPT = (5, 6, 7)


def forced(
    engine: Any, budgets: list[Budget], form: ThinkingFormat, **params: Any
) -> tuple[list[Generation], Counter[str]]:
    sampling = SamplingParams(**{"max_tokens": 200, "temperature": 0, **params})
    counts: Counter[str] = Counter()
    rows = [Request(prompt_ids=(*PROMPT, 8 + i), params=sampling, seed=i) for i in range(len(budgets))]
    pairs = [pair for batch in force(engine, rows, budgets, form, counts) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(budgets)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])], counts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 4)), min_size=1, max_size=5),
    st.sampled_from(["Wait", "Hmm", "", "Alternatively,"]),
    st.sampled_from(sorted(FORMATS)),
    st.integers(0, 1000),
)
def test_never_over_and_never_under(
    engine: TransformersEngine,
    limits: list[tuple[int, int, int]],
    wait: str,
    name: str,
    seed: int,
) -> None:
    form = FORMATS[name]
    budgets = [
        Budget(
            max_thinking_tokens=max(a, b),
            min_thinking_tokens=min(a, b),
            waits=n,
            wait_text=wait,
            answer_tokens=40,
        )
        for a, b, n in limits
    ]
    params = SamplingParams(max_tokens=120, logprobs=True)
    rows = [Request(prompt_ids=PROMPT, params=params, seed=seed + i) for i in range(len(budgets))]
    pairs = [pair for batch in force(engine, rows, budgets, form) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(budgets)))
    for index, generation in pairs:
        budget = budgets[index]
        thought = count_thinking(engine.tokenizer, generation, "", form)
        assert budget.max_thinking_tokens is not None
        assert budget.min_thinking_tokens <= thought <= budget.max_thinking_tokens, generation.text
        assert len(generation.token_ids) <= params.max_tokens
        assert generation.logprobs is not None
        assert len(generation.logprobs) == len(generation.token_ids)
        assert form.end_of_thinking in generation.text


@pytest.mark.parametrize("form", [THINK_TAGS, ANSWER_TAGS, S1])
def test_the_end_is_put_in_at_the_most(tokenizer: Any, form: ThinkingFormat) -> None:
    engine = Scripted(tokenizer, lambda index, part: "1 2 3 4 5 6 7 8 9 " * 9 if part == 0 else " 42")
    (generation,), counts = forced(engine, [Budget(max_thinking_tokens=10)], form, max_tokens=800)
    middle = tokenizer.decode(generation.token_ids[10:])
    assert middle.lstrip("\n").startswith(form.middle.lstrip("\n") + "Final Answer: 42")
    assert count_thinking(tokenizer, generation, "", form) == 10
    assert counts["forced_ends"] == 1
    assert counts["forced_tokens"] == len(generation.token_ids) - 10 - len(tokenizer(" 42")["input_ids"]) - 1
    assert generation.finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_untouched_completion_is_what_it_would_have_been(
    engine: TransformersEngine, temperature: float
) -> None:
    params = SamplingParams(max_tokens=60, temperature=temperature, logprobs=True)
    rows = [Request(prompt_ids=(*PROMPT, 20 + i), params=params, seed=i) for i in range(8)]
    plain = {index: generation for batch in engine.generate(rows) for index, generation in batch}
    texts = [engine.tokenizer.decode(generation.token_ids[:45]) for generation in plain.values()]
    tag, _ = Counter(c for text in texts for c in set(text) if c.isascii() and c.isprintable()).most_common(
        1
    )[0]
    form = replace(THINK_TAGS, start="", middle=tag, end_of_thinking=tag, tags=(tag,))
    counts: Counter[str] = Counter()
    budgets = [Budget(answer_tokens=10)] * 8
    forced = {index: g for batch in force(engine, rows, budgets, form, counts) for index, g in batch}
    untouched = [i for i in plain if tag in str(engine.tokenizer.decode(plain[i].token_ids[:45]))]
    assert untouched
    for i in untouched:
        assert forced[i].token_ids == plain[i].token_ids
        assert forced[i].logprobs == pytest.approx(plain[i].logprobs, abs=1e-4)
        assert (forced[i].text, forced[i].finish_reason) == (plain[i].text, plain[i].finish_reason)
    assert counts["forced_ends"] == 8 - len(untouched)


def test_ends_are_ignored_and_waited(tokenizer: Any) -> None:
    texts = ["so 41\n</think>\n\n41", " let me see, 42\n</think>\n\n42", " yes</think>", "\n\n\\boxed{42}"]
    engine = Scripted(tokenizer, lambda index, part: texts[part])
    (generation,), counts = forced(engine, [Budget(waits=2)], THINK_TAGS, max_tokens=900)
    assert generation.text == "so 41\nWait let me see, 42\nWait yes</think>\n\n\\boxed{42}"
    assert counts == {"waits": 2, "forced_tokens": 2 * len(tokenizer("\nWait")["input_ids"])}
    prompts = [request.prompt_ids for _, request in engine.requests]
    assert all(after[: len(before)] == before for before, after in pairwise(prompts[:-1]))


def test_an_end_token_inside_the_thinking_is_an_end(tokenizer: Any) -> None:
    engine = Scripted(tokenizer, lambda index, part: ["so 41", " 42", "\\boxed{42}"][part])
    (generation,), counts = forced(engine, [Budget(waits=1)], THINK_TAGS, max_tokens=900)
    assert generation.text == "so 41\nWait 42\n</think>\n\n\\boxed{42}"
    assert counts["forced_ends"] == counts["waits"] == 1


def test_nothing_in_the_place_of_an_end_bans_it_once(tokenizer: Any) -> None:
    engine = Scripted(tokenizer, lambda index, part: ["so</think>", "</think>", "x</think>", "42"][part])
    budget = Budget(waits=1, wait_text="")
    (generation,), _ = forced(engine, [budget], THINK_TAGS, max_tokens=900)
    first = tokenizer("</think>")["input_ids"][0]
    assert [request.params.banned_ids for _, request in engine.requests[:3]] == [(), (first,), ()]
    assert engine.requests[1][1].params.max_tokens == 1
    assert generation.token_ids[len(tokenizer("so")["input_ids"])] != first


def test_samples_are_at_different_rounds_at_once(engine: TransformersEngine) -> None:
    budgets = [Budget(max_thinking_tokens=n, min_thinking_tokens=n, answer_tokens=30) for n in (0, 1, 17, 50)]
    generations, _ = forced(engine, budgets, THINK_TAGS, max_tokens=90)
    thought = [count_thinking(engine.tokenizer, g, "", THINK_TAGS) for g in generations]
    assert thought == [0, 1, 17, 50]


def test_forced_rounds_compute_nothing_twice(engine: TransformersEngine) -> None:
    budget = Budget(max_thinking_tokens=100, min_thinking_tokens=100, answer_tokens=30)
    before = engine.forwarded_tokens
    generations, _ = forced(engine, [budget] * 3, THINK_TAGS, max_tokens=140, temperature=1)
    final = sum(len(PROMPT) + 1 + len(g.token_ids) for g in generations)
    assert engine.forwarded_tokens - before <= 1.1 * final


def test_long_completions_are_drawn_again(engine: TransformersEngine) -> None:
    params = SamplingParams(max_tokens=40)
    rows = [Request(prompt_ids=(*PROMPT, 20 + i), params=params, seed=i) for i in range(6)]
    plain = {index: generation for batch in engine.generate(rows) for index, generation in batch}
    tag, _ = Counter(c for g in plain.values() for c in set(g.text) if c.isascii()).most_common(1)[0]
    form = replace(THINK_TAGS, start="", middle=tag, end_of_thinking=tag, tags=(tag,))
    thought = {i: count_thinking(engine.tokenizer, g, "", form) for i, g in plain.items()}
    most = sorted(thought.values())[2]
    counts: Counter[str] = Counter()
    drawn = {i: g for b in resample_longer(engine, rows, [""] * 6, form, most, 50, counts) for i, g in b}
    for i, generation in drawn.items():
        assert count_thinking(engine.tokenizer, generation, "", form) <= most
        assert (generation.token_ids == plain[i].token_ids) == (thought[i] <= most)
    assert counts["redrawn"] >= sum(n > most for n in thought.values()) > 0
    stubborn: Counter[str] = Counter()
    assert sum(len(b) for b in resample_longer(engine, rows, [""] * 6, form, -1, 3, stubborn)) == 6
    assert stubborn == {"never_short": 6, "redrawn": 12}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_thinking_tokens": -1}, "max_thinking_tokens: -1 is negative"),
        ({"min_thinking_tokens": 9, "max_thinking_tokens": 5}, "is above max_thinking_tokens"),
        ({"waits": -1}, "waits"),
        ({"answer_tokens": 0}, "answer_tokens"),
    ],
)
def test_budgets_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**wrong)


def test_what_does_not_fit_is_refused_before_any_work(engine: TransformersEngine) -> None:
    before = engine.forwarded_tokens
    with pytest.raises(ValueError, match="lower answer_tokens"):
        forced(engine, [Budget()], THINK_TAGS, max_tokens=100)
    with pytest.raises(ValueError, match="does not fit"):
        forced(engine, [Budget()], THINK_TAGS, max_tokens=1_000_000)
    with pytest.raises(ValueError, match="zip"):
        list(force(engine, [], [Budget()], THINK_TAGS))
    assert not list(force(engine, [], [], THINK_TAGS))
    assert engine.forwarded_tokens == before


def test_a_tokenizer_without_the_tags_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"needs the token <\|no_such\|>"):
        Tags(tokenizer, replace(S1, start="<|no_such|>", tags=("<|no_such|>",)))


def test_thinking_tokens_are_counted_from_the_generated_ids(tokenizer: Any) -> None:
    def count(text: str, prefill: str = "", form: ThinkingFormat = THINK_TAGS) -> int:
        ids = tokenizer(text)["input_ids"]
        return count_thinking(
            tokenizer, finished_generation(tokenizer, [*ids, 2], Ending("stop"), ()), prefill, form
        )

    inside = len(tokenizer("12 + 30")["input_ids"])
    assert count("12 + 30\n</think>\n\n42", "<think>\n") == inside
    assert count("<think>\n12 + 30\n</think>\n\n42") == len(tokenizer("<think>\n12 + 30")["input_ids"])
    assert count("42") == 0
    assert count("12 + 30", "<think>\n") == len(tokenizer("12 + 30")["input_ids"])
    assert count("", "<think>\n") == 0


@pytest.mark.parametrize("ends", [("so\n</think>", "\n</think>", "</think>"), ("so</think>", "", "</think>")])
def test_an_end_in_two_forms_is_banned_in_both(tokenizer: Any, ends: tuple[str, ...]) -> None:
    """A model that turns to another form of the end when one is banned must not go round in circles."""

    def text(index: int, part: int) -> str:
        assert part < 400, "it goes round in circles"
        return ends[0] if part == 0 else ends[1 + part % 2]

    budget = Budget(min_thinking_tokens=20, max_thinking_tokens=60, wait_text="")
    (generation,), _ = forced(Scripted(tokenizer, text), [budget], THINK_TAGS, max_tokens=900)
    assert 20 <= count_thinking(tokenizer, generation, "", THINK_TAGS) <= 60


def test_a_stop_of_the_callers_inside_the_thinking_ends_all(tokenizer: Any) -> None:
    engine = Scripted(tokenizer, lambda index, part: "and so on</think>42")
    (generation,), _ = forced(engine, [Budget()], THINK_TAGS, max_tokens=900, stop=("so",))
    assert (generation.text, generation.stop_reason) == ("and so", "so")


def test_white_space_in_the_place_of_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="white space"):
        Budget(min_thinking_tokens=5, wait_text="\n")
