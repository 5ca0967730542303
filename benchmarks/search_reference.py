"""Beam search and DVTS as huggingface/search-and-learn@6f81cac does them, in our own words, for
`benchmarks.search` (src/sal/search/beam_search.py, diverse_verifier_tree_search.py, utils.py).

At each step the prompt with all that a beam has written is put to the engine anew, up to the separator, and
every prefix is scored from its beginning. In two points the rules are those of our strategies, so that both
search the same: a finished beam keeps its place (there n beams are extended whatever has finished), and a
step without text goes on (through `follow`, at no cost).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.prm import reencode
from data.steps import steps_of
from data.thinking import ThinkingFormat
from inference.draw import attempt_seed
from inference.engine import Generation, Request
from inference.scorers.reward_model import RewardModel
from inference.scorers.step_scorer import encode_all
from inference.search.driver import SearchBudget, Task
from inference.transformers_engine import TransformersEngine

PROBLEMS_AT_ONCE = 25
"""Of DVTS (search_batch_size; beam search has one)."""
PRM_BATCH = 4
"""Solutions of one pass of the reward model (prm_batch_size)."""


@dataclass(eq=False)
class Beam:
    """A path and what is known of it."""

    task: Task
    ids: tuple[int, ...] = ()
    """Of all that it has written."""
    text: str = ""
    seed: int | None = None
    """Of its random stream; None where nothing is written."""
    extended: int = 0
    """Beams that were made of it."""
    end: str = ""
    """stop, length or, where it can go on, nothing."""
    score: float = 0.0

    def next_seed(self, seed: int) -> int:
        """Seed of the next beam made of it: those of our search (`Extender._child_seed`)."""
        place, problem = self.extended, self.task[0].id
        self.extended += 1
        if self.seed is None:
            return attempt_seed(seed, problem, place)
        return attempt_seed(seed, f"{problem}:{self.seed}:{len(self.ids)}", place) if place else self.seed


class Reference:
    """The two searches, with the seconds of each part in `seconds` and `cpu_seconds`.

    The same search is timed with what the peer does and with less, so that it is seen what each thing costs:
    `generate` without any kept prefix, `generate_kept` with a prefix cache (as vLLM has it there), `score_4`
    with `PRM_BATCH` solutions at a time, `score_all` with all of a step. Their results are alike.

    Args:
        kept: the same model with a prefix cache.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        kept: TransformersEngine,
        reward: RewardModel,
        budget: SearchBudget,
        form: ThinkingFormat,
    ) -> None:
        self.engine = engine
        self.kept = kept
        self.reward = reward
        self.budget = budget
        self.form = form
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        self.scored_tokens = 0
        """That went through the reward model, padding not counted."""

    @contextmanager
    def timed(self, part: str) -> Any:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        yield
        self.seconds[part] += time.perf_counter() - begin
        self.cpu_seconds[part] += time.process_time() - cpu_begin

    def beam(self, tasks: Sequence[Task], n: int, width: int, max_steps: int) -> list[list[Beam]]:
        """Finished beams of each problem, one problem after the other."""
        return [self._beam(task, n, width, max_steps) for task in tasks]

    def _beam(self, task: Task, n: int, width: int, max_steps: int) -> list[Beam]:
        beams, done = [Beam(task)], []
        for step in range(1, max_steps + 1):
            each, more = divmod(n - len(done), len(beams))
            parents = [beam for place, beam in enumerate(beams) for _ in range(each + (place < more))]
            beams = self._extend(parents, whole=step == max_steps)
            done += [beam for beam in beams if beam.end == "stop"]
            going_on = [beam for beam in beams if not beam.end]
            beams = sorted(going_on, key=lambda beam: -beam.score)[: (n - len(done)) // width or 1]
            if len(done) == n or not beams:
                break
        return done

    def dvts(self, tasks: Sequence[Task], n: int, width: int, max_steps: int) -> list[list[Beam]]:
        """Finished beams of each problem, some problems at a time."""
        lots = [tasks[i : i + PROBLEMS_AT_ONCE] for i in range(0, len(tasks), PROBLEMS_AT_ONCE)]
        return [done for lot in lots for done in self._dvts(lot, n, width, max_steps)]

    def _dvts(self, tasks: Sequence[Task], n: int, width: int, max_steps: int) -> list[list[Beam]]:
        roots = [Beam(task) for task in tasks]
        heads = [root for root in roots for _ in range(n // width)]
        done: dict[str, list[Beam]] = {task[0].id: [] for task in tasks}
        for step in range(1, max_steps + 1):
            beams = self._extend([head for head in heads for _ in range(width)], whole=step == max_steps)
            heads = []
            for first in range(0, len(beams), width):
                subtree = beams[first : first + width]
                best = max((beam for beam in subtree if beam.end != "length"), key=_score, default=None)
                if best is not None and not best.end:
                    heads.append(best)
                else:
                    done[subtree[0].task[0].id] += [beam for beam in subtree if beam.end == "stop"]
            if not heads:
                break
        return list(done.values())

    # -------------------------------------------------------------- a step

    def _extend(self, parents: Sequence[Beam], whole: bool) -> list[Beam]:
        """A beam behind each parent, scored."""
        requests = [self._request(parent, whole) for parent in parents]
        with self.timed("generate_kept"):
            self._generate(self.kept, requests)
        with self.timed("generate"):
            written = self._generate(self.engine, requests)
        beams = []
        for parent, request, (ids, end) in zip(parents, requests, written, strict=True):
            everything = [*parent.ids, *ids]
            text = self.engine.tokenizer.decode(everything[: len(everything) - (end == "stop")])
            text = f"{parent.task[1].prefill}{text}"
            beams.append(Beam(parent.task, tuple(everything), text, request.seed, end=end))
        self._score(beams)
        return beams

    def _request(self, beam: Beam, whole: bool) -> Request:
        params = self.budget.params
        stop = () if whole else (self.budget.steps.separator,)
        params = replace(params, max_tokens=params.max_tokens - len(beam.ids), stop=stop)
        prompt = (*beam.task[1].ids, *beam.ids)
        return Request(prompt_ids=prompt, params=params, seed=beam.next_seed(self.budget.seed))

    def _generate(
        self, engine: TransformersEngine, requests: Sequence[Request]
    ) -> list[tuple[list[int], str]]:
        """What is written behind each prompt and how it ends."""
        written: list[list[int]] = [[] for _ in requests]
        ends = [""] * len(requests)

        def go_on(index: int, piece: Generation) -> Request | None:
            first, so_far = requests[index], [*written[index], *piece.token_ids]
            left = first.params.max_tokens - len(so_far)
            text = str(engine.tokenizer.decode(so_far))
            if piece.stop_reason is None or left < 1 or self._steps(text):
                return None
            written[index] = so_far
            params = replace(first.params, max_tokens=left)
            return replace(first, prompt_ids=(*first.prompt_ids, *so_far), params=params)

        for batch in engine.generate(requests, go_on):
            for index, piece in batch:
                written[index] += piece.token_ids
                full = len(written[index]) >= requests[index].params.max_tokens
                stopped = piece.finish_reason == "stop" and piece.stop_reason is None
                ends[index] = "stop" if stopped else "length" if full else ""
        return list(zip(written, ends, strict=True))

    def _score(self, beams: Sequence[Beam]) -> None:
        """The score behind the last step of each, 0 where there is none; of beams that are alike the same."""
        steps = [self._steps(beam.text) for beam in beams]
        filled = [(beam, own) for beam, own in zip(beams, steps, strict=True) if own]
        if not filled:
            return
        questions = [beam.task[0].question for beam, _ in filled]
        solutions = [own for _, own in filled]
        with self.timed("score_4"):
            for i in range(0, len(filled), PRM_BATCH):
                reencode(self.reward, questions[i : i + PRM_BATCH], solutions[i : i + PRM_BATCH])
        with self.timed("score_all"):
            scores = reencode(self.reward, questions, solutions)
        with self.timed("count"):
            encoded = encode_all(self.reward.step_format, questions, solutions)
            self.scored_tokens += sum(len(steps.ids) for steps in encoded)
        known: dict[tuple[str, str], float] = {}
        for (beam, _), own in zip(filled, scores, strict=True):
            beam.score = known.setdefault((beam.task[0].id, beam.text), own[-1])

    def _steps(self, text: str) -> list[str]:
        return [step.text for step in steps_of(text, self.form, self.budget.steps.separator)]


def _score(beam: Beam) -> float:
    return beam.score
