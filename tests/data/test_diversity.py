"""Draws: the declared distribution, the same set whatever the order of the rows, and what is refused."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import diversity
from data.diversity import Diversity, SelectCondition, auto_select, benchmark_weights, draw, draw_phases
from data.schema import Attempt, Completion, Problem

DIVERSITIES: tuple[Diversity, ...] = get_args(Diversity)


def trace(id: str, tokens: Any = 10, domain: str = "", **more: Any) -> Attempt:
    completion = Completion(
        text="",
        thinking=more.get("thinking", "Some thought."),
        response=more.get("response", "1"),
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=tokens,
        completion_tokens=10,
        model="m",
        seed=0,
    )
    problem = Problem(id=id, question=id, answer="1", domain=domain, source=more.get("source", ""))
    verdict = more.get("verdict", "correct")
    return Attempt(
        problem=problem, index=more.get("index", 0), completion=completion, verdict=verdict, extracted="1"
    )


POOL = [
    trace(f"{domain}{n}", tokens=n + 1, domain=domain)
    for domain, size in (("x", 50), ("y", 5), ("z", 20))
    for n in range(size)
]


def within(successes: int, trials: int, share: float) -> bool:
    """Inside five standard deviations of the binomial."""
    return abs(successes - trials * share) < 5 * (trials * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("mode", DIVERSITIES)
@settings(max_examples=25, deadline=None)
@given(rows=st.permutations(POOL), seed=st.integers(0, 3))
def test_a_draw_does_not_depend_on_the_order_of_the_rows(
    mode: Diversity, rows: list[Attempt], seed: int
) -> None:
    weights = {"y": 2.0, "z": 1.0}
    drawn = draw(rows, 30, mode, seed, domain_weights=weights)
    assert drawn == draw(POOL, 30, mode, seed, domain_weights=dict(reversed(weights.items())))
    assert len({t.problem.id for t in drawn}) == 30


def test_s1_ranks_are_geometric_and_domains_uniform() -> None:
    trials = 4000
    firsts = [draw(POOL, 1, "s1", seed)[0] for seed in range(trials)]
    domains = Counter(t.problem.domain for t in firsts)
    assert all(within(domains[domain], trials, 1 / 3) for domain in "xyz")
    ranks = [50 - t.completion.thinking_tokens for t in firsts if t.problem.domain == "x"]
    assert within(ranks.count(0), len(ranks), 0.5)
    assert within(ranks.count(1), len(ranks), 0.25)
    assert within(sum(rank < 5 for rank in ranks), len(ranks), 0.96875)


def test_other_modes() -> None:
    trials = 2000
    uniform = [draw(POOL, 1, "uniform", seed)[0] for seed in range(trials)]
    assert within(sum(t.problem.domain == "y" for t in uniform), trials, 1 / 3)
    assert {t.problem.id for t in uniform} == {t.problem.id for t in POOL}
    among_all = [draw(POOL, 1, "random", seed)[0] for seed in range(trials)]
    assert within(sum(t.problem.domain == "y" for t in among_all), trials, 5 / 75)
    assert [t.completion.thinking_tokens for t in draw(POOL, 3, "longest", 0)] == [50, 49, 48]


def test_the_second_phase_draws_domains_by_weight() -> None:
    pool = [trace(f"{domain}{n}", domain=domain) for domain in "wxyz" for n in range(200)]
    drawn: Counter[str] = Counter()
    for seed in range(20):
        phases = draw_phases(pool, 100, "s1", seed, domain_weights={"x": 3.0, "y": 1.0, "elsewhere": 9.0})
        assert [phase for phase, _ in phases] == ["uniform_domain"] * 70 + ["benchmark_domain"] * 30
        drawn.update(t.problem.domain for _, t in phases[70:])
    assert set(drawn) == {"x", "y"}
    assert within(drawn["x"], 600, 0.75)


def test_what_was_selected_counts_in_the_first_phase_and_is_not_drawn_again() -> None:
    selected = POOL[:35]
    phases = draw_phases(POOL, 60, "s1", 0, selected=selected, domain_weights={"z": 1.0})
    counts = Counter(phase for phase, _ in phases)
    assert counts["uniform_domain"] == 42 - 35
    assert counts["benchmark_domain"] + counts["no_benchmark_domain_left"] == 18
    together = draw(POOL, 60, "s1", 0, selected=selected, domain_weights={"z": 1.0})
    assert together[:35] == selected
    assert len({t.problem.id for t in together}) == 60


def test_emptied_benchmark_domains_are_recorded() -> None:
    phases = draw_phases(POOL, 75, "s1", 0, domain_weights={"y": 1.0}, phase_one_share=0.0)
    assert [phase for phase, _ in phases] == ["benchmark_domain"] * 5 + ["no_benchmark_domain_left"] * 70


@pytest.mark.parametrize("mode", DIVERSITIES)
def test_a_draw_takes_every_trace_when_there_are_no_more(mode: Diversity) -> None:
    giant = [trace(str(n), tokens=n, domain="one") for n in range(300)]
    drawn = draw(random.Random(0).sample(giant, 300), 400, mode, 0)
    assert sorted(t.problem.id for t in drawn) == sorted(t.problem.id for t in giant)


@pytest.mark.parametrize("length", [float("nan"), None, -1])
def test_lengths_that_cannot_be_ranked_are_refused(length: Any) -> None:
    with pytest.raises(ValueError, match="thinking_tokens of problem bad"):
        draw([*POOL, trace("bad", tokens=length)], 3, "s1", 0)


def test_missing_domains_and_mixed_units_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    draw([trace("a", tokens=0), trace("b", domain="x")], 1, "s1", 0)
    assert "1 of 2 traces are ranked by words" in caplog.text
    assert "1 of 2 traces have no domain" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain_weights": {"x": float("nan")}}, "domain_weights.x"),
        ({"domain_weights": {"x": -1.0}}, "domain_weights.x"),
        ({"phase_one_share": 1.5}, "phase_one_share"),
        ({"selected": POOL[:9]}, "auto_select takes 9 traces, size is 5"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(POOL, 5, "s1", 0, **options)


def test_benchmark_weights_are_those_of_s1() -> None:
    aime = [Problem(id=str(n), question="", answer="", domain=d) for n, d in enumerate("aab" * 30)]
    gpqa = [Problem(id=str(n), question="", answer="", domain=d) for n, d in enumerate("bbbc" * 50)]
    weights = benchmark_weights([(aime, 1.0), (gpqa, 0.5)])
    scale = 0.5 * len(aime) / len(gpqa)
    published = {"a": 60, "b": 30 + scale * 150, "c": scale * 50}
    assert {d: w * len(aime) for d, w in weights.items()} == pytest.approx(published)
    with pytest.raises(ValueError, match="has a domain"):
        benchmark_weights([([Problem(id="", question="", answer="")], 1.0)])


def test_auto_select_takes_long_correct_traces_of_a_source(caplog: pytest.LogCaptureFixture) -> None:
    conditions = diversity.parse_conditions(
        [{"source": "*gpqa*"}, {"source": "math", "min_thinking_tokens": 5601}, {"source": "none"}], "auto"
    )
    rows = [
        trace("a", source="Idavidrein/gpqa/train"),
        trace("b", source="gpqa", verdict="wrong"),
        trace("c", source="math", tokens=5600),
        trace("d", source="math", tokens=5601),
        trace("e", source="math500", tokens=9999),
    ]
    selected, taken = auto_select(reversed(rows), conditions)
    assert [t.problem.id for t in selected] == ["a", "d"]
    assert taken == [1, 1, 0]
    assert "auto_select takes no trace" in caplog.text
    assert SelectCondition(source="gpqa", require_correct=False).holds(rows[1])


@pytest.mark.parametrize(
    "entry", ["math", {}, {"source": "a", "tokens": 1}, {"source": "a", "require_correct": 1}]
)
def test_malformed_conditions_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"auto_select\[0\]"):
        diversity.parse_conditions([entry], "auto_select")


def test_one_trace_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    lengths = [(5, "correct"), (9, "correct"), (2, "correct"), (1, "wrong"), (99, "wrong"), (98, "wrong")]
    traces = [trace("a", tokens=n, index=i, verdict=v) for i, (n, v) in enumerate(lengths)]
    traces += [trace("b", tokens=7, verdict="wrong")]

    def chosen(choice: diversity.TraceChoice) -> list[int]:
        shuffled = random.Random(1).sample(traces, len(traces))
        return [t.completion.thinking_tokens for t in diversity.some_per_problem(shuffled, choice, 0)]

    assert chosen("first") == [5, 7]
    assert chosen("shortest") == [1, 7]
    assert chosen("longest") == [99, 7]
    assert chosen("median_correct") == [5, 7]
    assert "1 problems have no correct trace" in caplog.text
    drawn = {diversity.some_per_problem(traces, "random", seed)[0].index for seed in range(60)}
    assert drawn == set(range(6))


@pytest.mark.parametrize("choice", ["first", "shortest", "longest", "random", "median_correct"])
def test_several_traces_a_problem_have_different_texts(choice: diversity.TraceChoice) -> None:
    lengths = [5, 5, 9, 2, 7]  # the first two are the same text
    traces = [trace("a", tokens=n, index=i, thinking=f"Thought {n}.") for i, n in enumerate(lengths)]
    traces += [trace("b", tokens=7)]

    def chosen(count: int, order: int = 0) -> list[tuple[str, int]]:
        shuffled = random.Random(order).sample(traces, len(traces))
        picked = diversity.some_per_problem(shuffled, choice, 3, count)
        return [(t.problem.id, t.completion.thinking_tokens) for t in picked]

    in_order = {
        "first": [5, 9, 2, 7],
        "shortest": [2, 5, 7, 9],
        "longest": [9, 7, 5, 2],
        "median_correct": [5, 7, 2, 9],
    }
    everything = chosen(99)
    assert sorted(everything) == [("a", 2), ("a", 5), ("a", 7), ("a", 9), ("b", 7)]
    assert chosen(99, order=1) == everything
    if choice in in_order:
        assert [n for _, n in everything] == [*in_order[choice], 7]
    assert chosen(2) == [*everything[:2], everything[-1]]
    assert chosen(1) == [everything[0], everything[-1]]
