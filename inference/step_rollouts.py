"""Drawing rollouts of prefixes: all that are wanted at a time together, in rounds, each of them once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.prompts import Prompt
from data.schema import Attempt
from data.store import Journal, journal_rows
from data.thinking import thinking_format
from inference.draw import ROWS_PER_CALL, Drawn, attempt_seed, lots, make_attempts
from inference.engine import Engine, Request
from inference.options import GenerationOptions
from inference.step_prefixes import Labelling, Prefix, Solution, Tally, written_ids
from rewards.policy import parse_policy

logger = logging.getLogger(__name__)

JOURNAL = "rollouts.journal"

Name = tuple[str, str, int]
"""Problem id, key of the prefix, and the number of its first rollout: what a wave is known by."""


class Wave(NamedTuple):
    """Rollouts of one prefix that are drawn together."""

    prefix: Prefix
    start: int
    """Number of the first one."""
    count: int

    @property
    def name(self) -> Name:
        return self.prefix.problem.id, self.prefix.key, self.start


class Job(NamedTuple):
    """A wave and the prompt that goes on from its prefix."""

    wave: Wave
    prompt: Prompt


Draw = Callable[[list[Wave]], list[Tally]]


def settle(solutions: Sequence[Solution], labelling: Labelling, draw: Draw) -> None:
    """Draw rounds of rollouts until every solution has what its labels need. Which ones a problem gets
    depends on its own attempts alone."""
    while waves := _next_waves(solutions, labelling):
        for wave, tally in zip(waves, draw(waves), strict=True):
            wave.prefix.record(tally, drawn=True)


def _next_waves(solutions: Sequence[Solution], labelling: Labelling) -> list[Wave]:
    wanted = dict.fromkeys(prefix for solution in solutions for prefix in labelling.wanted(solution))
    return [Wave(prefix, prefix.drawn.rollouts, labelling.wave(prefix)) for prefix in wanted]


class Rollouts:
    """Draws rounds with an engine. What is finished goes to a journal, from which a killed run goes on.

    Args:
        known: waves that were drawn before.
        done: called with numbers of rollouts, and of their tokens, as they are finished.
    """

    def __init__(
        self,
        config: GenerationOptions,
        engine: Engine,
        journal: Journal,
        known: dict[Name, Tally],
        done: Callable[[int, int], Any] = lambda count, tokens: None,
    ) -> None:
        self.config = config
        self.engine = engine
        self.journal = journal
        self.known = known
        self.done = done
        self.params = config.sampling(engine.tokenizer)
        self.form = thinking_format(config.thinking_format)
        self.policy = parse_policy(config.policy)

    def __call__(self, waves: list[Wave]) -> list[Tally]:
        """How the rollouts of each wave ended.

        Raises:
            ValueError: see `Engine.check`.
        """
        before = [wave.count for wave in waves if wave.name in self.known]
        self.done(sum(before), 0)
        if len(before) < len(waves):
            for call in self._calls(waves):
                missing = [job for job in call if job.wave.name not in self.known]
                if missing:  # a part of a repeatable call might be rounded in another way
                    self._draw(call if self.engine.repeatable else missing)
        return [self.known[wave.name] for wave in waves]

    def _calls(self, waves: list[Wave]) -> Iterator[list[Job]]:
        """The waves in calls of the engine: prompts of like lengths together, and the whole of each wave."""
        jobs = [Job(wave, self._prompt(wave.prefix)) for wave in waves]
        call: list[Job] = []
        rows = 0
        for job in sorted(jobs, key=lambda job: (-len(job.prompt.ids), job.wave.name)):
            call.append(job)
            rows += job.wave.count
            if rows >= self.config.batch_size * ROWS_PER_CALL:
                yield call
                call, rows = [], 0
        if call:
            yield call

    def _prompt(self, prefix: Prefix) -> Prompt:
        """The prompt that goes on from exactly this prefix."""
        given = prefix.prompt
        ids = written_ids(self.engine.tokenizer, prefix.text, given)
        written = prefix.text.removeprefix(given.prefill)
        return Prompt(text=given.text + written, prefill=prefix.text, ids=(*given.ids, *ids))

    def _draw(self, call: list[Job]) -> None:
        """Draw, verify and keep the waves of one call."""
        work = [(job, job.wave.start + place) for job in call for place in range(job.wave.count)]
        requests = [self._request(job, index) for job, index in work]
        ended: dict[Name, list[Attempt]] = defaultdict(list)
        for lot in lots(self.engine.generate(requests), self.config.batch_size):
            new = [(place, made) for place, made in lot if work[place][0].wave.name not in self.known]
            drawn: list[Drawn] = [
                (job.wave.prefix.problem, job.prompt, index, requests[place].seed, made)
                for place, made in new
                for job, index in [work[place]]
            ]
            attempts = make_attempts(drawn, self.engine, self.form, self.policy)
            for (place, _), attempt in zip(new, attempts, strict=True):
                ended[work[place][0].wave.name].append(attempt)
            whole = [job.wave for job in call if len(ended.get(job.wave.name, ())) == job.wave.count]
            self._keep({wave.name: _tally(ended.pop(wave.name)) for wave in whole})
            self.done(len(new), sum(len(made.token_ids) for _, made in new))
        assert not ended, "a wave has no end"

    def _request(self, job: Job, index: int) -> Request:
        """One rollout: prefix and continuation together have as many tokens as a whole completion may."""
        prefix = job.wave.prefix
        left = self.params.max_tokens - (len(job.prompt.ids) - len(prefix.prompt.ids))
        seed = attempt_seed(self.config.seed, f"{prefix.problem.id}:{prefix.key}", index)
        return Request(prompt_ids=job.prompt.ids, params=replace(self.params, max_tokens=left), seed=seed)

    def _keep(self, tallies: Mapping[Name, Tally]) -> None:
        self.journal.append(
            {"id": id, "prefix": prefix, "start": start, **asdict(tally)}
            for (id, prefix, start), tally in tallies.items()
        )
        self.known.update(tallies)


def _tally(attempts: Sequence[Attempt]) -> Tally:
    verdicts = [attempt.verdict for attempt in attempts]
    return Tally(
        right=verdicts.count("correct"),
        wrong=verdicts.count("wrong"),
        unverifiable=verdicts.count("unverifiable"),
        tokens=sum(attempt.completion.completion_tokens for attempt in attempts),
    )


def finished_waves(folder: Path) -> dict[Name, Tally]:
    """What the journals of a folder hold."""
    rows = (row for path in sorted(folder.glob(f"{JOURNAL}*")) for row in journal_rows(path))
    return {
        (row["id"], row["prefix"], row["start"]): Tally(**{f.name: row[f.name] for f in fields(Tally)})
        for row in rows
    }
