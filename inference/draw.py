"""Verified attempts at problems: prompts, completions, verdicts, written as they finish.

Every stage that answers questions draws them here: `sample`, `evaluate`, `test_time`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data.hints import hinted
from data.load_source import load_problems
from data.processes import is_part, worker, workers, world
from data.progress import Progress
from data.prompts import Prompt, Prompter, with_suffix
from data.schema import (
    Attempt,
    Completion,
    Problem,
    Rejected,
    attempt_from_row,
    attempt_row,
    problem_row,
    rejected,
)
from data.sources import parse_source
from data.store import (
    Journal,
    journal_rows,
)
from data.thinking import ThinkingFormat, thinking_format
from inference.budget import force, resample_longer
from inference.engine import Engine, Generation, Request, load_engine
from inference.options import GenerationOptions, is_inline
from inference.ranks import wait
from inference.thinking_tokens import count_thinking
from rewards.policy import DEFAULT_POLICY, Policy, parse_policy
from rewards.texts import graded_text
from rewards.verify import verify_many

logger = logging.getLogger(__name__)

T = TypeVar("T")

ROWS_PER_CALL = 16
"""Rows that one engine call gets, over those it has under way at once; a call that was interrupted is made
again."""
SECONDS_PER_LOT = 10
"""Finished rows are written after so long at the latest."""


JOURNAL = "attempts.journal"


def draw(
    config: GenerationOptions,
    problems: Sequence[Problem],
    num_completions: int,
    folder: Path,
    engine: Engine | None = None,
    counts: Counter[str] | None = None,
    hint: str | None = None,
    may_be_empty: bool = False,
) -> tuple[list[Attempt], list[Rejected]]:
    """`num_completions` verified attempts per problem, in the order of problems and indices.

    Finished rows go to a journal in `folder`, from which a killed run goes on; the caller removes it
    (`remove_journals`) when the rows are safe elsewhere. Problems that cannot be put to this model are
    rejected. In a launch of several processes, and in shares, each does a part, and only who gathers them
    (`is_part`) gets attempts back.

    Args:
        engine: of this config, where it is already loaded.
        counts: gets what budget forcing and rejection sampling did in this process.
        hint: see `render_prompts`; attempts that show it are among what is returned.
        may_be_empty: no attempts are returned, and no error raised, where no problem can be put to the model.
    """
    engine = engine or load_engine(config)
    prompter = make_prompter(config, engine)
    longest = engine.max_model_tokens - config.max_tokens
    prompts, bad = render_prompts(problems, prompter, longest, config.question_suffix, hint)
    work = [(p, prompts[p.id], i) for p in problems if p.id in prompts for i in range(num_completions)]
    if not work and may_be_empty:
        return [], bad
    if not work:
        raise ValueError(
            f"no problem can be put to the model; first reason: {bad[0].rule}: {bad[0].evidence}"
        )
    work.sort(key=lambda item: -len(item[1].ids))
    wait()  # for the run folder, which the first process makes
    done = _finished(folder)
    wait()  # until all have read
    if done:
        logger.info("going on after %d finished completions", len(done))
    with Journal(folder / (f"{JOURNAL}.{worker()}" if workers() > 1 else JOURNAL)) as journal:
        _draw_missing(config, engine, work, journal, done, counts if counts is not None else Counter())
    wait()
    if is_part():
        return [], []
    done = _finished(folder) if world() > 1 else done
    if lost := sum((problem.id, index) not in done for problem, _, index in work):
        raise not_seen(folder, f"{lost} of {len(work)} completions")
    order = {p.id: position for position, p in enumerate(problems)}
    attempts = sorted(done.values(), key=lambda a: (order[a.problem.id], a.index))
    return attempts, bad


def not_seen(folder: Path, what: str) -> OSError:
    """The error of who gathers rows that other processes have written and does not find them."""
    return OSError(
        f"{folder}: {what} are in no journal that this process sees (a file system that is late, or damaged "
        "lines); start again: what is not there is drawn anew"
    )


def _finished(folder: Path) -> dict[tuple[str, int], Attempt]:
    """What the journals of a folder hold."""
    rows = (row for path in sorted(folder.glob(f"{JOURNAL}*")) for row in journal_rows(path))
    return {(row["id"], row["index"]): attempt_from_row(row) for row in rows}


def remove_journals(folder: Path) -> None:
    """Remove what `draw` keeps for a restart."""
    for path in folder.glob(f"{JOURNAL}*"):
        path.unlink()


Work = tuple[Problem, Prompt, int]
"""A completion to draw: its problem, the prompt and its index."""


def _draw_missing(
    config: GenerationOptions,
    engine: Engine,
    work: list[Work],
    journal: Journal,
    done: dict[tuple[str, int], Attempt],
    counts: Counter[str],
) -> None:
    own = work[worker() :: workers()]  # dealt one by one: rows differ in cost with their prompts
    initial = sum((problem.id, index) in done for problem, _, index in own)
    bar = Progress(total=len(own), initial=initial, desc="completions", unit="completion")
    right = sum(attempt.verdict == "correct" for attempt in done.values())
    form, policy = thinking_format(config.thinking_format), parse_policy(config.policy)
    size = config.batch_size * ROWS_PER_CALL
    for start in range(0, len(own), size):
        call = own[start : start + size]
        missing = [item for item in call if (item[0].id, item[2]) not in done]
        if missing and engine.repeatable:
            missing = call  # a call of its own might be rounded in another way
        for lot in lots(_generated(config, engine, missing, counts), config.batch_size):
            drawn = [item for item in lot if (item[0].id, item[2]) not in done]
            rows = make_attempts(drawn, engine, form, policy)
            journal.append(attempt_row(row) for row in rows)
            done.update({(row.problem.id, row.index): row for row in rows})
            right += sum(row.verdict == "correct" for row in rows)
            tokens = sum(row.completion.completion_tokens for row in rows)
            bar.update(len(rows), tokens=tokens, right=right / len(done))
    bar.close()


Drawn = tuple[Problem, Prompt, int, int, Generation]
"""A completion: its problem, prompt, index, seed and tokens."""


def _generated(
    config: GenerationOptions, engine: Engine, work: Sequence[Work], counts: Counter[str]
) -> Iterator[list[Drawn]]:
    """The completions of this work as they are finished."""
    form, budget = thinking_format(config.thinking_format), config.budget()
    params = config.sampling(engine.tokenizer)
    requests = [
        Request(prompt_ids=prompt.ids, params=params, seed=attempt_seed(config.seed, problem.id, index))
        for problem, prompt, index in work
    ]
    if not requests:
        return
    if budget is not None:
        batches = force(engine, requests, [budget] * len(requests), form, counts)
    elif config.resample_longer_than is not None:
        prefills = [prompt.prefill for _, prompt, _ in work]
        limit = (config.resample_longer_than, config.resample_tries)
        batches = resample_longer(engine, requests, prefills, form, *limit, counts)
    else:
        batches = engine.generate(requests)
    for batch in batches:
        yield [(*work[place], requests[place].seed, generation) for place, generation in batch]


def lots(batches: Iterable[list[T]], size: int) -> Iterator[list[T]]:
    """Batches put together, so that rows are verified and written some at a time."""
    lot: list[T] = []
    since = time.monotonic()
    for batch in batches:
        lot += batch
        if len(lot) >= size or time.monotonic() - since > SECONDS_PER_LOT:
            yield lot
            lot, since = [], time.monotonic()
    if lot:
        yield lot


def make_prompter(config: GenerationOptions, engine: Engine) -> Prompter:
    """The prompter of a generating stage, with its few-shot examples loaded."""
    examples: list[tuple[str, str]] = []
    for index, entry in enumerate(config.few_shot):
        if is_inline(entry):
            examples.append((entry["question"], entry["response"]))
            continue
        problems, _ = load_problems(parse_source(entry, f"few_shot[{index}]"))
        examples += [(p.question, p.solution or f"\\boxed{{{p.answer}}}") for p in problems]
    return Prompter.of(config, engine.tokenizer, examples)


def render_prompts(
    problems: Sequence[Problem], prompter: Prompter, longest: int, suffix: str, hint: str | None = None
) -> tuple[dict[str, Prompt], list[Rejected]]:
    """The prompt of each problem by its id, and the problems that cannot be put to the model: a special
    token in the question, a prompt of more than `longest` tokens, or no answer that `hint` could tell.

    Behind the question come the hint, with the problem's answer in it (data/hints.py), and the suffix."""
    prompts: dict[str, Prompt] = {}
    bad: list[Rejected] = []
    for problem in problems:
        asked = problem.question
        if hint is not None:
            if not problem.answer.strip():
                bad.append(rejected(problem_row(problem), "no_answer", "the hint has no answer to tell"))
                continue
            asked = hinted(asked, hint, problem.answer)
        try:
            prompt = prompter.prompt(with_suffix(asked, suffix))
        except ValueError as error:
            bad.append(rejected(problem_row(problem), "unusable_question", str(error)))
            continue
        if len(prompt.ids) > longest:
            bad.append(
                rejected(problem_row(problem), "overlong_prompt", f"{len(prompt.ids)} > {longest} tokens")
            )
        else:
            prompts[problem.id] = prompt
    return prompts, bad


def attempt_seed(seed: int, problem: str, index: int) -> int:
    """Seed of one completion: 63 bits of a hash of the stage's seed, the problem's id and the index."""
    digest = hashlib.sha256(f"{seed}:{problem}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_attempts(
    drawn: Sequence[Drawn],
    engine: Engine,
    form: ThinkingFormat,
    policy: Policy = DEFAULT_POLICY,
) -> list[Attempt]:
    """Split and verify generations, each with its problem, prompt, index and seed."""
    texts = [prompt.prefill + generation.text for _, prompt, _, _, generation in drawn]
    splits = [form.split(text) for text in texts]
    golds = [problem.answer for problem, *_ in drawn]
    verdicts = verify_many(golds, [graded_text(split, form) for split in splits], policy)
    return [
        Attempt(
            problem=problem,
            index=index,
            completion=Completion(
                text=text,
                thinking=split.thinking,
                response=split.response,
                finish_reason=generation.finish_reason,
                prompt_tokens=len(prompt.ids),
                thinking_tokens=count_thinking(engine.tokenizer, generation, prompt.prefill, form),
                completion_tokens=len(generation.token_ids),
                model=engine.name,
                seed=seed,
            ),
            verdict=verdict.outcome,
            extracted=verdict.extracted,
        )
        for (problem, prompt, index, seed, generation), text, split, verdict in zip(
            drawn, texts, splits, verdicts, strict=True
        )
    ]


def attempt_metrics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Shares of verdicts and the tokens that a set of attempts cost; shares of no attempts are None."""
    n = len(attempts)
    sums = Counter(a.verdict for a in attempts)
    totals = {
        "correct": sums["correct"],
        "unverifiable": sums["unverifiable"],
        "truncated": sum(a.completion.finish_reason == "length" for a in attempts),
        "mean_thinking_tokens": sum(a.completion.thinking_tokens for a in attempts),
    }
    return {
        **{name: total / n if n else None for name, total in totals.items()},
        "tokens": sum(a.completion.completion_tokens for a in attempts),
    }
