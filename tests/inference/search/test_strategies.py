"""Every strategy on trees whose every leaf is known."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.steps import steps_of
from inference.draw import attempt_seed
from inference.engine import Request
from inference.search.choose import choose
from inference.search.driver import Searched, search
from inference.search.settings import parse_strategies
from inference.search.strategies.beam import Beam, spread
from inference.search.strategies.dvts import DVTS
from inference.search.strategies.mcts import MCTS
from inference.search.strategies.parallel import BestOfN, Majority
from inference.search.strategies.rebase import Rebase, allocate
from inference.search.strategies.revisions import Revisions
from inference.search.strategies.strategy import SearchStrategy
from inference.search.tree import Node, finished
from tests.inference.search.digits import (
    FORM,
    DigitPolicy,
    DigitScorer,
    best_leaf,
    chance,
    oracle,
    search_budget,
    tasks,
)

EVERY = [
    Majority(n=1),
    BestOfN(n=1),
    Beam(n=1, width=1),
    DVTS(n=1, width=1),
    Rebase(n=1),
    MCTS(n=1, width=1),
    Revisions(n=1),
]


def run(
    tokenizer: Any,
    strategy: SearchStrategy,
    count: int = 4,
    worth: Any = None,
    depth: int = 3,
    digits: int = 2,
    counts: Counter[str] | None = None,
    **budget: Any,
) -> list[Searched]:
    policy = DigitPolicy(tokenizer, depth, digits)
    scorer = DigitScorer(worth or oracle(depth, digits))
    found = search(tasks(tokenizer, count), policy, scorer, strategy, search_budget(**budget), FORM, counts)
    return [one for batch in found for one in batch]


def digits_of(one: Searched, node: Node) -> str:
    return one.tree.text(node).rpartition("{")[2].rstrip("}")


def best_of(one: Searched) -> str:
    return digits_of(one, max(one.candidates, key=lambda node: node.score))


@pytest.mark.parametrize(
    "strategy",
    [
        Beam(n=32, width=8),
        DVTS(n=32, width=8),
        MCTS(n=15, width=8),
        Rebase(n=64),
        BestOfN(n=128),
    ],
    ids=lambda s: s.label,
)
def test_with_an_oracle_the_best_leaf_is_found(tokenizer: Any, strategy: SearchStrategy) -> None:
    found = run(tokenizer, strategy, count=12)
    assert len(found) == 12
    for one in found:
        assert best_of(one) == best_leaf(one.tree.problem.question, 3, 2)


@pytest.mark.parametrize("value", ["rollouts", "both"])
def test_mcts_with_values_of_rollouts(tokenizer: Any, value: Any) -> None:
    """The scorer is right about whole solutions only, as an outcome reward model is."""
    best = oracle(3, 2)

    def outcome(question: str, so_far: str) -> float:
        return best(question, so_far) if len(so_far) == 3 else 0.0

    strategy = MCTS(n=20, width=6, value=value, exploration=0.1)
    for one in run(tokenizer, strategy, count=6, worth=outcome):
        assert best_of(one) == best_leaf(one.tree.problem.question, 3, 2)


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.label)
def test_one_completion_is_what_sampling_gives(tokenizer: Any, strategy: SearchStrategy) -> None:
    policy = DigitPolicy(tokenizer, depth=5, digits=7)
    budget = search_budget(seed=3)
    given = tasks(tokenizer, 5)
    requests = [
        Request(prompt_ids=prompt.ids, params=budget.params, seed=attempt_seed(3, problem.id, 0))
        for problem, prompt in given
    ]
    sampled = {given[i][0].id: made for batch in policy.generate(requests) for i, made in batch}
    for one in run(tokenizer, strategy, count=5, depth=5, digits=7, worth=lambda *_: 0.5, seed=3):
        [node] = one.candidates
        assert one.tree.text(node) == sampled[one.tree.problem.id].text
        assert node.path_ids == sampled[one.tree.problem.id].token_ids


def test_completions_are_those_of_stage_sample(tokenizer: Any) -> None:
    policy, budget = DigitPolicy(tokenizer, 4, 5), search_budget(seed=1)
    [(problem, prompt)] = tasks(tokenizer, 1)
    requests = [
        Request(prompt_ids=prompt.ids, params=budget.params, seed=attempt_seed(1, problem.id, i))
        for i in range(6)
    ]
    sampled = [made.text for batch in policy.generate(requests) for _, made in batch]
    [one] = run(tokenizer, Majority(n=6), count=1, depth=4, digits=5, seed=1)
    assert [node.path_text for node in one.candidates] == sampled


@pytest.mark.parametrize(
    "strategy",
    [
        Beam(n=16, width=4),
        DVTS(n=16, width=4),
        Rebase(n=16),
        MCTS(n=8, width=4),
        MCTS(n=8, width=4, value="rollouts"),
        Revisions(n=8, chains=2),
    ],
    ids=lambda s: s.title,
)
def test_no_random_number_is_used_twice(tokenizer: Any, strategy: SearchStrategy) -> None:
    """A random number is that of a seed and a place; the tokens of one problem all have their own."""
    for one in run(tokenizer, strategy, depth=4, digits=9, max_tokens=200):
        used: Counter[tuple[int, int]] = Counter()
        for node in one.tree.nodes[1:]:
            places = range(node.tokens - len(node.token_ids), node.tokens)
            used.update((node.seed, place) for place in places if not node.forced)
        assert max(used.values()) == 1


def test_dvts_with_one_subtree_is_greedy_stepwise_best_of_m(tokenizer: Any) -> None:
    worth = lambda question, digits: chance(question, digits)  # noqa: E731
    dvts = run(tokenizer, DVTS(n=4, width=4), count=10, worth=worth, depth=4, digits=9)
    beam = run(tokenizer, Beam(n=4, width=4), count=10, worth=worth, depth=4, digits=9)
    for one, other in zip(dvts, beam, strict=True):
        node = one.tree.root
        while node.children:  # each step: four candidates, of which the best one has the next ones
            assert len(node.children) == 4
            top = max(node.children, key=lambda child: child.score)
            assert all(not child.children for child in node.children if child is not top)
            node = top
        assert node in one.candidates
        assert {n.path_text for n in one.candidates} == {n.path_text for n in other.candidates}


def test_dvts_returns_no_unfinished_paths(tokenizer: Any) -> None:
    for one in run(tokenizer, DVTS(n=16, width=4), count=8, depth=4, digits=9, max_tokens=12):
        assert all(node.end == "stop" for node in one.candidates)


def test_constant_scores_choose_as_the_majority_does_and_random_ones_nearly(tokenizer: Any) -> None:
    differences = []
    for one in run(tokenizer, BestOfN(n=9), count=150, worth=lambda *_: 0.5, depth=1, digits=3):
        answers = [int(digits_of(one, node)) for node in one.candidates]
        constant = choose(answers, [node.score for node in one.candidates])
        assert answers[constant["majority"]] == answers[constant["weighted_best_of_n"]]
        random = choose(answers, [chance(one.tree.problem.id, i) for i in range(9)])
        weighted, votes = (answers[random[c]] == 0 for c in ("weighted_best_of_n", "majority"))
        differences.append(weighted - votes)
    mean = sum(differences) / 150
    deviation = (sum((d - mean) ** 2 for d in differences) / 150 / 149) ** 0.5
    assert any(differences)
    assert abs(mean) < 3.5 * deviation


def test_beam_keeps_the_best_steps(tokenizer: Any) -> None:
    for one in run(tokenizer, Beam(n=8, width=2), count=6, worth=chance, depth=3, digits=9):
        first = one.tree.root.children
        assert len(first) == 8
        going_on = [node for node in first if node.children]
        assert len(going_on) == 4
        assert min(n.score for n in going_on) >= max(n.score for n in first if n not in going_on)
        assert all(len(node.children) == 2 for node in going_on)
        assert len(one.candidates) == 8


def test_beam_filters_copies(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    found = run(tokenizer, Beam(n=16, width=4, filter_duplicates=True), counts=counts)
    assert counts["dropped"] > 0
    for one in found:
        first = [node for node in one.tree.root.children if node.children]
        assert len({node.text for node in first}) == len(first) == 2  # there are two digits


def test_mcts_gives_nothing_for_steps_that_were_cut_off() -> None:
    children = [Node(i, None, end=end, score=0.5) for i, end in enumerate(("stop", "length", "stop"))]
    for value in ("scorer", "rollouts", "both"):
        with pytest.raises(StopIteration) as stop:
            next(MCTS(n=1, value=value).evaluate(children))
        assert stop.value.value == [0.5, 0.0, 0.5]


def test_mcts_has_no_copies_among_its_candidates(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    for one in run(tokenizer, MCTS(n=8, width=4), depth=2, counts=counts):
        texts = [node.path_text for node in one.candidates]
        assert len(texts) == len(set(texts)) <= 4  # there are four leaves
    assert counts["dropped"] > 0


def test_what_was_only_looked_at_is_no_candidate(tokenizer: Any) -> None:
    """Where the budget ends a search, what has ended by then are its candidates."""
    strategy = Beam(n=8, width=4, lookahead=2)
    sizes = []
    for total in range(40, 400, 12):
        [one] = run(tokenizer, strategy, count=1, total_tokens=total)
        assert len(one.candidates) <= strategy.n
        sizes.append(len(one.candidates))
    assert set(sizes) == {0, 8}


def test_lookahead_is_scored(tokenizer: Any) -> None:
    """A scorer that sees nothing before the last digit misleads beam search unless it looks ahead."""
    best = oracle(2, 2)

    def late(question: str, so_far: str) -> float:
        return best(question, so_far) if len(so_far) == 2 else 0.5

    ahead = run(tokenizer, Beam(n=2, width=2, lookahead=1), count=40, worth=late, depth=2, digits=2)
    for one in ahead:
        seen = one.tree.root.children
        assert all(any(child.text in ("0\n", "1\n") for child in node.children) for node in seen)
        top = max(seen, key=lambda node: node.children[0].score)
        assert len(top.children) > 1  # greedy lookahead, and the steps that really follow
    plain = run(tokenizer, Beam(n=2, width=2), count=40, worth=late, depth=2, digits=2)

    def worth(found: list[Searched]) -> float:
        return sum(max(node.score for node in one.candidates) for one in found)

    assert worth(ahead) > worth(plain)


def test_revisions_think_again(tokenizer: Any) -> None:
    for one in run(tokenizer, Revisions(n=6, chains=2), count=3, max_tokens=200):
        assert len(one.candidates) == 6
        forced = [node for node in one.tree.nodes if node.forced]
        assert len(forced) == 4
        assert all(node.text.endswith("Wait") for node in forced)
        wait = len(tokenizer("\nWait")["input_ids"])
        assert one.cost.forced_tokens == 4 * wait  # what is thought over again was generated before
        assert one.cost.generated_tokens == sum(
            len(node.token_ids) for node in one.tree.nodes if not node.forced
        )


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [([0.5, 0.5], 8, [4, 4]), ([1.0, 0.0], 4, [4, 0]), ([0.5, 0.5, 0.5], 7, [3, 2, 2]), ([], 3, [])],
)
def test_rebase_shares_by_softmax(scores: list[float], count: int, expected: list[int]) -> None:
    assert allocate(scores, count, 0.1) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(0, 40), st.floats(0.01, 5))
def test_rebase_gives_all_that_there_is(scores: list[float], count: int, temperature: float) -> None:
    counts = allocate(scores, count, temperature)
    assert sum(counts) == count
    assert min(counts) >= 0
    ranked = sorted(zip(scores, counts, strict=True))
    assert all(low[1] <= high[1] + 1 for low, high in pairwise(ranked))


def test_spread_gives_the_first_ones_more() -> None:
    nodes = [Node(i, None) for i in range(3)]
    assert [ask.count for ask in spread(nodes, 8, whole=False)] == [3, 3, 2]
    assert [ask.count for ask in spread(nodes, 2, whole=False)] == [1, 1]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=st.sampled_from(
        [
            {"strategy": "majority", "n": 5},
            {"strategy": "beam", "n": 8, "width": 4, "lookahead": 1},
            {"strategy": "dvts", "n": 8, "width": 2},
            {"strategy": "rebase", "n": 6},
            {"strategy": "mcts", "n": 6, "width": 3, "value": "both"},
            {"strategy": "revisions", "n": 4, "chains": 2},
        ]
    ),
    total=st.integers(1, 200),
    max_tokens=st.integers(1, 30),
    max_step_tokens=st.integers(1, 5),
    live_rows=st.integers(1, 20),
)
def test_budgets_are_never_exceeded(
    tokenizer: Any, entry: dict[str, Any], total: int, max_tokens: int, max_step_tokens: int, live_rows: int
) -> None:
    [strategy] = parse_strategies([entry], "strategies")
    limits: dict[str, Any] = {
        "max_tokens": max_tokens,
        "max_step_tokens": max_step_tokens,
        "live_rows": live_rows,
    }
    found = run(tokenizer, strategy, count=5, total_tokens=total, **limits)
    assert sorted(one.tree.problem.id for one in found) == sorted(p.id for p, _ in tasks(tokenizer, 5))
    for one in found:
        assert one.tree.generated_tokens <= total
        assert one.cost.generated_tokens == one.tree.generated_tokens
        for node in one.tree.nodes[1:]:
            assert node.tokens <= max_tokens
            assert node.end != "" or node.tokens < max_tokens
        assert all(node.end for node in one.candidates)
        assert len(one.candidates) <= max(strategy.n, 6 * 3 * 2)


@pytest.mark.parametrize("strategy", [Beam(n=8, width=4), DVTS(n=8, width=4), MCTS(n=9, width=4)])
def test_the_answer_and_its_steps_are_whole(tokenizer: Any, strategy: SearchStrategy) -> None:
    for one in run(tokenizer, strategy):
        for node in finished(one.tree.ended):
            steps = steps_of(one.tree.text(node), FORM, "\n")
            assert len(steps) == len(node.step_scores) == 4
