"""Generating what strategies ask for: one call of the engine for the wishes of all problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from data.steps import steps_of
from data.thinking import ThinkingFormat
from inference.draw import attempt_seed
from inference.engine import Engine, Generation, Request, SamplingParams
from inference.search.tree import End, Extend, Node, Tree, text_behind

STEP_TOKENS = 128
"""Longest texts that are remembered."""


@dataclass(frozen=True, kw_only=True)
class StepLimits:
    """Where a step ends."""

    separator: str
    max_tokens: int
    """A step without separator is cut there."""


@dataclass(eq=False)
class Job:
    """One child that is being generated."""

    tree: Tree
    ask: Extend
    request: Request
    """The first one; its max_tokens bound the whole child."""
    limit_ends: bool
    """Whether the path ends where the child has all its tokens."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    steps: int = 0
    step_start: int = 0
    """Tokens of the child before the step that is under way."""
    has_end_token: bool = False


class Extender:
    """Makes nodes of wishes.

    Args:
        params: of a whole path; `max_tokens` bounds it.
        counts: gets `generated_tokens`, `cut_steps` and `paths_at_limit`.
    """

    def __init__(
        self,
        engine: Engine,
        params: SamplingParams,
        form: ThinkingFormat,
        limits: StepLimits,
        seed: int,
        counts: Counter[str],
    ) -> None:
        self.engine = engine
        self.params = params
        self.form = form
        self.limits = limits
        self.seed = seed
        self.counts = counts
        self.tokenizer: Any = engine.tokenizer
        self.decode_step = lru_cache(maxsize=1 << 13)(self._decode)
        self.part_params = lru_cache(maxsize=1 << 10)(self._part_params)

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of tokens; that of a step is remembered, since siblings are often alike."""
        return self.decode_step(ids) if len(ids) <= STEP_TOKENS else self._decode(ids)

    def __call__(self, wishes: Sequence[tuple[Tree, Sequence[Extend], int | None]]) -> list[list[Node]]:
        """The children that each tree's wishes give, in their order.

        Args:
            wishes: with the tokens that a tree may still generate, of which its children get equal shares;
                None: no bound.
        """
        jobs = [
            job
            for tree, asks, left in wishes
            for ask in asks
            for job in self._jobs(tree, ask, _share(asks, left))
        ]
        ended: list[End] = [""] * len(jobs)

        def follow(index: int, piece: Generation) -> Request | None:
            return self._next(jobs[index], piece)

        for batch in self.engine.generate([self._part(job) for job in jobs], follow):
            for index, piece in batch:
                ended[index] = self._take(jobs[index], piece)
        nodes: dict[Tree, list[Node]] = {tree: [] for tree, *_ in wishes}
        for job, end in zip(jobs, ended, strict=True):
            nodes[job.tree].append(self._node(job, end))
        return list(nodes.values())

    def _jobs(self, tree: Tree, ask: Extend, share: int | None) -> list[Job]:
        prompt = (*tree.prompt.ids, *ask.node.path_ids)
        left = tree.max_tokens - ask.node.tokens
        limit = left if share is None else min(left, share)
        params = replace(
            self.params,
            max_tokens=limit,
            temperature=0 if ask.greedy else self.params.temperature,
            logprobs=ask.logprobs,
        )
        first = ask.node.claimed
        ask.node.claimed += ask.count
        return [
            Job(
                tree=tree,
                ask=ask,
                request=Request(
                    prompt_ids=prompt, params=params, seed=self._child_seed(tree, ask.node, place)
                ),
                limit_ends=limit == left,
            )
            for place in range(first, first + ask.count)
        ]

    def _child_seed(self, tree: Tree, node: Node, place: int) -> int:
        """Seed of a child. Completions from the root have those of stage `sample`, and the first child goes
        on in its parent's random stream: a path of first children is the completion that sampling gives."""
        if node.parent is None:
            return attempt_seed(self.seed, tree.problem.id, place)
        if place == 0 and not node.forced:
            return node.seed
        # first children have their parents' seed, but not as many tokens
        return attempt_seed(self.seed, f"{tree.problem.id}:{node.seed}:{node.tokens}", place)

    # -------------------------------------------------------------- parts

    def _part(self, job: Job) -> Request:
        """The request for what is missing of a child, up to the end of a step where it is not whole."""
        request = job.request
        left = request.params.max_tokens - len(job.ids)
        if job.ask.whole:
            return request
        step_left = self.limits.max_tokens - (len(job.ids) - job.step_start)
        ids = (*request.prompt_ids, *job.ids) if job.ids else request.prompt_ids
        params = self.part_params(request.params, min(left, step_left))
        return Request(prompt_ids=ids, params=params, seed=request.seed)

    def _part_params(self, params: SamplingParams, max_tokens: int) -> SamplingParams:
        """Those of a child up to the end of a step."""
        return replace(params, max_tokens=max_tokens, stop=(*params.stop, self.limits.separator))

    def _next(self, job: Job, piece: Generation) -> Request | None:
        """What follows a part: nothing where the child is complete. Separators without a step before them end
        nothing."""
        if job.ask.whole or piece.stop_reason != self.limits.separator:
            return None
        if len(job.ids) + len(piece.token_ids) >= job.request.params.max_tokens:
            return None
        # what stands before it in its step is blank too
        blank = not steps_of(piece.text, self.form, self.limits.separator)
        full = len(job.ids) + len(piece.token_ids) - job.step_start >= self.limits.max_tokens
        if full or (not blank and job.steps + 1 >= job.ask.steps):
            return None
        self._add(job, piece)
        if not blank:
            job.steps += 1
            job.step_start = len(job.ids)
        return self._part(job)

    def _add(self, job: Job, piece: Generation) -> None:
        job.ids += piece.token_ids
        job.logprobs += piece.logprobs or []
        self.counts["generated_tokens"] += len(piece.token_ids)

    def _take(self, job: Job, piece: Generation) -> End:
        """Take in the last part; how the path ends with it."""
        self._add(job, piece)
        job.has_end_token = piece.finish_reason == "stop" and piece.stop_reason is None
        if job.has_end_token or (piece.finish_reason == "stop" and piece.stop_reason in self.params.stop):
            return "stop"
        return "length" if job.limit_ends and len(job.ids) >= job.request.params.max_tokens else ""

    def _node(self, job: Job, end: End) -> Node:
        """The child, of a text that ends with a whole character."""
        ids = job.ids
        text = self._text(job, ids[: len(ids) - job.has_end_token])
        step_tokens = len(ids) - job.step_start
        cut = not end and not job.ask.whole and not text.endswith(self.limits.separator)
        while cut and text.endswith("\ufffd") and len(ids) > 1:
            ids = ids[:-1]
            text = self._text(job, ids)
        self.counts["cut_steps"] += cut and step_tokens >= self.limits.max_tokens
        self.counts["paths_at_limit"] += end == "length"
        logprob = sum(job.logprobs) / len(job.logprobs) if job.logprobs else 0.0
        more = {"cut": cut, "seed": job.request.seed, "logprob": logprob}
        node = job.tree.add(job.ask.node, text, ids, end, **more)
        job.tree.generated_tokens += len(job.ids)
        return node

    def _text(self, job: Job, ids: list[int]) -> str:
        """Text of the tokens of a child."""
        return text_behind(self.decode, job.request.prompt_ids, ids)


def _share(asks: Sequence[Extend], left: int | None) -> int | None:
    """Tokens that each child may have of those that are left."""
    return None if left is None else left // max(1, sum(ask.count for ask in asks))
