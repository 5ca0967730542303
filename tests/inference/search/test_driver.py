"""Many problems at once: nothing lost, everything counted, and what goes wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import T5Config

from inference.engine import SamplingParams
from inference.scorers.scorer import aggregate
from inference.search.driver import Driver, Searched, search
from inference.search.flops import Flops, engine_flops, flops_of
from inference.search.strategies.beam import Beam
from inference.search.strategies.dvts import DVTS
from inference.search.strategies.mcts import MCTS
from inference.search.strategies.parallel import BestOfN, Majority
from inference.search.strategies.revisions import Revisions
from inference.search.strategies.strategy import SearchStrategy
from inference.transformers_engine import TransformersEngine
from tests.inference.search.digits import FORM, DigitPolicy, DigitScorer, oracle, search_budget, tasks


def flat(found: Any) -> list[Searched]:
    return [one for batch in found for one in batch]


def test_all_problems_share_each_round_and_leave_when_they_are_done(tokenizer: Any) -> None:
    policy, scorer = DigitPolicy(tokenizer), DigitScorer(oracle(3, 2))
    counts: Counter[str] = Counter()
    budget = search_budget(live_rows=16)
    found = flat(search(tasks(tokenizer, 10), policy, scorer, Beam(n=8, width=4), budget, FORM, counts))
    assert sorted(one.tree.problem.id for one in found) == sorted(p.id for p, _ in tasks(tokenizer, 10))
    assert policy.calls[0] == 16  # two problems at once, a call for both
    assert max(policy.calls) <= 16
    assert counts["rounds"] == len(policy.calls) == 5 * 4  # three digits and the answer, five pairs
    assert counts["generated_tokens"] == policy.tokens == sum(one.cost.generated_tokens for one in found)
    assert sum(one.cost.scorer_tokens for one in found) == pytest.approx(scorer.forwarded_tokens)


def test_a_new_problem_enters_when_one_is_done(tokenizer: Any) -> None:
    """Of two problems one ends first; the third comes in beside the other one."""
    policy = DigitPolicy(tokenizer)
    given = tasks(tokenizer, 3)
    long = given[1][0].question

    class Slow(SearchStrategy):
        label = "slow"
        needs_scorer = False

        def run(self, tree: Any) -> Any:
            nodes = []
            for _ in range(4 if tree.problem.question == long else 2):
                nodes = yield from Majority(n=1).run(tree)
            return nodes

    found = flat(search(given, policy, None, Slow(n=1), search_budget(live_rows=2), FORM))
    assert policy.calls == [2, 2, 2, 2]
    assert [one.tree.problem for one in found] == [given[0][0], given[1][0], given[2][0]]


def test_live_tokens_let_in_fewer_problems(tokenizer: Any) -> None:
    policy = DigitPolicy(tokenizer)
    given = tasks(tokenizer, 6)
    longest = 4 * (max(len(prompt.ids) for _, prompt in given) + 40)
    for tokens, most in ((longest, 4), (2 * longest, 8), (1, 4)):
        policy.calls.clear()
        budget = search_budget(live_tokens=tokens)
        assert len(flat(search(given, policy, None, Majority(n=4), budget, FORM))) == 6
        assert max(policy.calls) == most


class Moody(DigitScorer):
    """Refuses solutions whose second digit is 1, as a model's format may."""

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        if any(len(steps) > 1 and steps[1] == "1" for steps in solutions):
            raise ValueError("a step has a special token")
        return super().score(questions, solutions)


def test_paths_that_cannot_be_scored_have_score_0(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    policy, scorer = DigitPolicy(tokenizer), Moody(oracle(3, 2))
    found = flat(search(tasks(tokenizer, 4), policy, scorer, BestOfN(n=16), search_budget(), FORM, counts))
    refused = 0
    for one in found:
        for node in one.candidates:
            bad = node.path_text.split("\n")[1] == "1"
            refused += bad
            assert node.score == 0 if bad else node.score == aggregate(node.step_scores, "last") > 0
    assert counts["unscorable"] == refused > 0


def test_a_scorer_that_refuses_everything_is_an_error(tokenizer: Any) -> None:
    class Refusing(DigitScorer):
        def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
            raise ValueError("a step contains the separator")

    with pytest.raises(ValueError, match=r"worth can score none of 32 paths.*the separator"):
        flat(
            search(
                tasks(tokenizer, 2),
                DigitPolicy(tokenizer),
                Refusing(oracle(3, 2)),
                BestOfN(n=16),
                search_budget(),
                FORM,
            )
        )


def test_a_strategy_that_needs_scores_gets_no_problems_without(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="strategy beam needs a scorer"):
        flat(search(tasks(tokenizer, 1), DigitPolicy(tokenizer), None, Beam(n=4), search_budget(), FORM))


def test_steps_without_separator_are_cut_and_counted(tokenizer: Any) -> None:
    class Endless(DigitPolicy):
        def _next(self, ids: list[int], request: Any) -> int:
            [token] = self.tokenizer("7")["input_ids"]
            return token

    counts: Counter[str] = Counter()
    budget = search_budget(max_tokens=20, max_step_tokens=6)
    scorer = DigitScorer(lambda *_: 0.5)
    found = flat(
        search(tasks(tokenizer, 3), Endless(tokenizer), scorer, DVTS(n=4, width=2), budget, FORM, counts)
    )
    assert len(found) == 3
    for one in found:
        assert one.candidates == []  # nothing has ended by itself
        assert {node.tokens for node in one.tree.ended} == {20}
        assert all(node.cut for node in one.tree.nodes[1:] if node.is_open)
    assert counts["cut_steps"] == 3 * 3 * 4
    assert counts["paths_at_limit"] == 3 * 4


def test_a_path_ends_at_the_last_step_in_one_go(tokenizer: Any) -> None:
    for strategy in (
        Beam(n=4, width=2, max_steps=2),
        DVTS(n=4, width=2, max_steps=2),
        MCTS(n=6, width=2, max_steps=2),
    ):
        policy, scorer = DigitPolicy(tokenizer, depth=5), DigitScorer(oracle(5, 2))
        for one in flat(search(tasks(tokenizer, 2), policy, scorer, strategy, search_budget(), FORM)):
            assert one.candidates
            assert all(len(node.path) == 2 for node in one.candidates)


def test_time_is_shared_out(tokenizer: Any) -> None:
    ticks = iter(range(1000))
    budget = search_budget(live_rows=8)
    driver = Driver(
        DigitPolicy(tokenizer), None, Majority(n=4), budget, FORM, Counter(), clock=lambda: float(next(ticks))
    )
    found = flat(driver.run(tasks(tokenizer, 4)))
    assert sum(one.cost.seconds for one in found) == pytest.approx(2)  # two rounds of one tick each
    assert all(one.cost.latency_seconds >= 1 for one in found)


# ------------------------------------------------------------------ with a real model


def engine(folder: Path, **options: Any) -> TransformersEngine:
    return TransformersEngine.load(str(folder), dtype="float32", batch_size=16, **options)


REAL = replace(
    search_budget(max_step_tokens=6), params=SamplingParams(max_tokens=24, temperature=1.0), live_rows=32
)


@pytest.mark.parametrize("strategy", [Beam(n=8, width=4), DVTS(n=8, width=4), MCTS(n=6, width=3)])
def test_shared_prefixes_are_computed_once(
    tiny_model: Path, tokenizer: Any, strategy: SearchStrategy
) -> None:
    given = tasks(tokenizer, 6)
    kept = engine(tiny_model, prefix_cache_tokens=1 << 16)
    scorer = DigitScorer(lambda question, digits: 0.5)
    found = flat(search(given, kept, scorer, strategy, REAL, FORM))
    unique = sum(len(prompt.ids) for _, prompt in given) + sum(
        len(node.token_ids) for one in found for node in one.tree.nodes
    )
    assert kept.forwarded_tokens <= 1.15 * unique
    plain = engine(tiny_model)
    again = flat(search(given, plain, scorer, strategy, REAL, FORM))
    texts = [[[n.text for n in one.tree.nodes] for one in run] for run in (found, again)]
    assert texts[0] == texts[1]
    assert plain.forwarded_tokens > 2 * kept.forwarded_tokens


def test_flops(tiny_model: Path, tokenizer: Any) -> None:
    model = engine(tiny_model).model
    flops = flops_of(model)
    assert flops.parameters == sum(p.numel() for p in model.parameters())  # the embeddings are the output's
    assert (flops.layers, flops.width) == (2, 32)
    assert flops(3, 5) == 2 * flops.parameters * 3 + 4 * 2 * 32 * (6 + 7 + 8)
    assert Flops(parameters=1, layers=0, width=8)(4, 100) == 8
    given = tasks(tokenizer, 1)
    [one] = flat(search(given, engine(tiny_model), None, Majority(n=2), REAL, FORM))
    prompt = len(given[0][1].ids)
    expected = flops(prompt, 0) + sum(flops(len(node.token_ids), prompt) for node in one.candidates)
    assert one.cost.policy_flops == pytest.approx(expected)
    assert one.cost.scorer_flops == 0


def test_what_is_thought_over_again_is_computed_once(tokenizer: Any) -> None:
    driver = Driver(
        DigitPolicy(tokenizer), None, Revisions(n=4), search_budget(max_tokens=200), FORM, Counter()
    )
    driver.policy_flops = Flops(parameters=1, layers=0, width=1)
    [one] = flat(driver.run(tasks(tokenizer, 1)))
    assert len(one.candidates) == 4
    cost = one.cost
    assert cost.forced_tokens == 3 * len(tokenizer("\nWait")["input_ids"])
    assert cost.policy_flops == 2 * (cost.prompt_tokens + cost.generated_tokens + cost.forced_tokens)


def test_flops_of_a_model_of_another_kind_are_not_known(tmp_path: Path) -> None:
    """A server may name its model by such a folder."""
    T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert engine_flops(SimpleNamespace(name=str(tmp_path))) is None


def test_flops_of_an_unknown_model_are_nan(tokenizer: Any) -> None:
    [one] = flat(search(tasks(tokenizer, 1), DigitPolicy(tokenizer), None, Majority(n=2), REAL, FORM))
    assert math.isnan(one.cost.policy_flops)
