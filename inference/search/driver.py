"""Searching many problems at once: in each round the wishes of all of them make one batch of the engine and
one call of the scorer."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data.prompts import Prompt
from data.schema import Problem
from data.thinking import ThinkingFormat
from inference.budget import Tags
from inference.engine import Engine, SamplingParams
from inference.scorers.scorer import Aggregation, Scorer
from inference.search.extension import Extender, StepLimits
from inference.search.flops import engine_flops, scorer_flops, total
from inference.search.results import Cost
from inference.search.scoring import NodeScorer
from inference.search.strategies.strategy import SearchStrategy
from inference.search.tree import Extend, Node, Strategy, Tree, finished

logger = logging.getLogger(__name__)

Task = tuple[Problem, Prompt]


@dataclass(frozen=True, kw_only=True)
class SearchBudget:
    """What a search may use."""

    params: SamplingParams
    """`max_tokens` bounds each path."""
    steps: StepLimits
    total_tokens: int | None = None
    """Most generated tokens of one problem's tree; null: as many as the strategy asks for. Children share
    what is left equally, so that it is never exceeded."""
    live_rows: int = 64
    """Completions under way at once, of all problems; one problem may have more."""
    live_tokens: int = 1 << 18
    """Tokens that problems under way at once may have, if all paths get as long as they may; a problem that
    needs more is searched alone."""
    aggregation: Aggregation = "last"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A problem whose search is over."""

    tree: Tree
    candidates: list[Node]
    cost: Cost


@dataclass(eq=False)
class _Run:
    """One problem under way."""

    tree: Tree
    strategy: Strategy
    rows: int
    start: float
    wishes: Sequence[Extend] = ()
    candidates: list[Node] | None = None
    """Set when it is over."""
    scorer_tokens: float = 0.0
    scorer_flops: float = 0.0
    seconds: float = 0.0
    rounds: int = 0

    @property
    def live_tokens(self) -> int:
        return self.rows * (len(self.tree.prompt.ids) + self.tree.max_tokens)


def search(
    problems: Sequence[Task],
    engine: Engine,
    scorer: Scorer | None,
    strategy: SearchStrategy,
    budget: SearchBudget,
    form: ThinkingFormat,
    counts: Counter[str] | None = None,
) -> Iterator[list[Searched]]:
    """Search every problem, and yield those whose search is over as soon as it is.

    Problems enter in their order as far as `live_rows` and `live_tokens` allow, and leave when they are done.

    Args:
        scorer: None only for a strategy that needs none.
        counts: gets `rounds`, `generated_tokens`, `cut_steps`, `paths_at_limit`, `unscorable`,
            `budget_stops`, `unfinished` candidates that were left out, and `dropped` copies.
    Raises:
        ValueError: a strategy that needs a scorer has none, or the scorer refuses all paths.
    """
    if scorer is None and strategy.needs_scorer:
        raise ValueError(f"scorer_model: strategy {strategy.label} needs a scorer")
    driver = Driver(engine, scorer, strategy, budget, form, counts if counts is not None else Counter())
    yield from driver.run(problems)


class Driver:
    """See `search`."""

    def __init__(
        self,
        engine: Engine,
        scorer: Scorer | None,
        strategy: SearchStrategy,
        budget: SearchBudget,
        form: ThinkingFormat,
        counts: Counter[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.strategy = strategy
        self.budget = budget
        self.counts = counts
        self.clock = clock
        self.tags = Tags(engine.tokenizer, form)
        self.extend = Extender(engine, budget.params, form, budget.steps, budget.seed, counts)
        self.scorer = scorer
        self.score: NodeScorer | None = None
        if scorer is not None:
            self.score = NodeScorer(scorer, form, budget.steps.separator, budget.aggregation, counts)
        self.policy_flops = engine_flops(engine)
        self.scorer_flops = scorer_flops(scorer)

    def run(self, problems: Sequence[Task]) -> Iterator[list[Searched]]:
        """See `search`."""
        waiting, live = deque(problems), []
        while waiting or live:
            for run in self._admit(waiting, live):
                live.append(run)
                self._send(run, None)
            over = [run for run in live if run.candidates is not None]
            if over:
                live = [run for run in live if run.candidates is None]
                yield [self._searched(run) for run in over]
            elif live:
                for run, children in zip(live, self._round(live), strict=True):
                    self._send(run, children)

    def _admit(self, waiting: deque[Task], live: Sequence[_Run]) -> Iterator[_Run]:
        """Problems that there is room for, one in any case."""
        rows = sum(run.rows for run in live)
        tokens = sum(run.live_tokens for run in live)
        alone = not live
        while waiting:
            problem, prompt = waiting[0]
            tree = Tree(
                problem=problem, prompt=prompt, tags=self.tags, max_tokens=self.budget.params.max_tokens
            )
            run = _Run(tree, self.strategy.run(tree), rows=self.strategy.rows, start=self.clock())
            rows, tokens = rows + run.rows, tokens + run.live_tokens
            if not alone and (rows > self.budget.live_rows or tokens > self.budget.live_tokens):
                return
            alone = False
            waiting.popleft()
            yield run

    def _send(self, run: _Run, children: list[Node] | None) -> None:
        """Let a strategy begin, or go on with its children; its wishes, or its candidates, go to the run."""
        try:
            run.wishes = next(run.strategy) if children is None else run.strategy.send(children)
        except StopIteration as stop:
            run.candidates = [node for node in stop.value if node.end]
            self.counts["unfinished"] += len(stop.value) - len(run.candidates)
            return
        left = self._left(run)
        if left is not None and left < sum(ask.count for ask in run.wishes):
            run.strategy.close()
            run.candidates = finished(run.tree.ended)
            self.counts["budget_stops"] += 1

    def _left(self, run: _Run) -> int | None:
        limit = self.budget.total_tokens
        return None if limit is None else limit - run.tree.generated_tokens

    def _round(self, live: Sequence[_Run]) -> list[list[Node]]:
        """Generate and score what all runs wish for."""
        start = self.clock()
        children = self.extend([(run.tree, run.wishes, self._left(run)) for run in live])
        if self.score is not None and self.scorer is not None:
            before = self.scorer.forwarded_tokens
            self.score(
                [(run.tree, node) for run, nodes in zip(live, children, strict=True) for node in nodes]
            )
            self._share_scoring(live, children, self.scorer.forwarded_tokens - before)
        self._share_time(live, children, self.clock() - start)
        self.counts["rounds"] += 1
        return children

    def _share_scoring(
        self, live: Sequence[_Run], children: Sequence[Sequence[Node]], forwarded: int
    ) -> None:
        """The scorer's tokens, to each node by the length of its text."""
        characters = sum(len(node.text) for nodes in children for node in nodes)
        for run, nodes in zip(live, children, strict=True):
            starts = {parent: self._end(run.tree, parent) for parent in {node.parent for node in nodes}}
            for node in nodes:
                tokens = forwarded * len(node.text) / max(characters, 1)
                run.scorer_tokens += tokens
                run.scorer_flops += total(self.scorer_flops, tokens, starts[node.parent])

    def _share_time(self, live: Sequence[_Run], children: Sequence[Sequence[Node]], seconds: float) -> None:
        tokens = [sum(len(node.token_ids) for node in nodes) for nodes in children]
        for run, own in zip(live, tokens, strict=True):
            run.seconds += seconds * own / max(sum(tokens), 1)
            run.rounds += 1

    def _end(self, tree: Tree, node: Node | None) -> int:
        """Tokens up to the end of a node."""
        return len(tree.prompt.ids) + (node.tokens if node else 0)

    def _searched(self, run: _Run) -> Searched:
        assert run.candidates is not None
        tree = run.tree
        flops = total(self.policy_flops, len(tree.prompt.ids), 0)
        ends = {tree.root: len(tree.prompt.ids)}
        for node in tree.nodes[1:]:
            assert node.parent is not None
            start, new = ends[node.parent], len(node.token_ids) - node.copied_tokens
            flops += total(self.policy_flops, new, start + node.copied_tokens)
            ends[node] = start + len(node.token_ids)
        self.counts["dropped"] += tree.dropped
        cost = Cost(
            prompt_tokens=len(tree.prompt.ids),
            generated_tokens=tree.generated_tokens,
            forced_tokens=sum(len(node.token_ids) - node.copied_tokens for node in tree.nodes if node.forced),
            scorer_tokens=run.scorer_tokens,
            policy_flops=flops,
            scorer_flops=run.scorer_flops if self.scorer is not None else 0.0,
            seconds=run.seconds,
            latency_seconds=self.clock() - run.start,
            rounds=run.rounds,
        )
        if math.isnan(flops):
            logger.debug("FLOPs of %s are not known", self.extend.engine.name)
        return Searched(tree=tree, candidates=run.candidates, cost=cost)
